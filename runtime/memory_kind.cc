// SPDX-License-Identifier: Apache-2.0
#include "memory_kind.h"

#include <tvm/ffi/error.h>

#include <cstdlib>

#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

constexpr const char* kVariable = "SYNCNAS_OPENCL_MEMORY";

// 0 where the device does not know the question, as one of OpenCL 1.2 does not know about SVM.
template <typename T>
T Ask(cl_device_id device, cl_uint what) {
  T value = 0;
  const cl_int code = CL().clGetDeviceInfo(device, what, sizeof(value), &value, nullptr);
  return code == kClSuccess ? value : T{0};
}

}  // namespace

const char* MemoryName(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kShared:
      return "shared";
    case MemoryKind::kMapped:
      return "mapped";
    default:
      return "copied";
  }
}

MemoryKind OfferedMemory(cl_device_id device) {
  const bool has_calls = CL().clSVMAlloc != nullptr && CL().clSVMFree != nullptr;
  const auto svm = Ask<cl_bitfield>(device, kClDeviceSvmCapabilities);
  if (has_calls && (svm & kClDeviceSvmFineGrainBuffer) != 0) return MemoryKind::kShared;
  const bool unified = Ask<cl_bool>(device, kClDeviceHostUnifiedMemory) != 0;
  return unified ? MemoryKind::kMapped : MemoryKind::kCopied;
}

MemoryKind ChooseMemory(cl_device_id device, const std::string& device_name) {
  const MemoryKind offered = OfferedMemory(device);
  const char* wish = std::getenv(kVariable);
  if (wish == nullptr || *wish == '\0') return offered;
  for (MemoryKind kind : {MemoryKind::kCopied, MemoryKind::kMapped, MemoryKind::kShared}) {
    if (std::string(wish) != MemoryName(kind)) continue;
    if (kind == MemoryKind::kShared && offered != kind) {
      TVM_FFI_THROW(RuntimeError) << "OpenCL: " << kVariable << " is 'shared', but device '"
                                  << device_name << "' has no fine-grained shared virtual memory; "
                                  << "unset it, or take 'mapped' or 'copied'";
    }
    return kind;
  }
  TVM_FFI_THROW(RuntimeError) << "OpenCL: " << kVariable << " is '" << wish
                              << "'; take 'shared', 'mapped' or 'copied', or unset it";
}

}  // namespace syncnas::opencl
