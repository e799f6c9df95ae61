// SPDX-License-Identifier: Apache-2.0
//
// What moves a value between the lanes of a compiled model, in place of TVM's own function:
//
// vm.builtin.to_device(tensor, device type, device id) -> tensor on that device
//
// TVM's finishes the device's queue each time before it returns: a value could not be handed to a GPU
// lane that still works without waiting for it. Here a transfer to or from an OpenCL device waits for
// no more than copies.h says; every other one is left to TVM. Values are always copied, also where
// memory is shared: this is any program's function, and memory planning lets a program reuse the
// source's memory as soon as it has been moved.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

#include "boundary.h"
#include "copies.h"
#include "device.h"
#include "host_memory.h"

namespace syncnas::opencl {

namespace {

namespace ffi = tvm::ffi;

size_t Bytes(const ffi::Tensor& tensor) {
  return ffi::GetDataSize(tensor.numel(), tensor.dtype());
}

struct DeviceMemory {
  void AllocData(DLTensor* tensor, Device& device, Stream& stream) {
    tensor->data = device.buffers().Allocate(ffi::GetDataSize(*tensor), stream);
  }
  void FreeData(DLTensor* tensor) {
    if (ShuttingDown()) return;
    auto* buffer = static_cast<Buffer*>(tensor->data);
    buffer->device.buffers().Free(buffer);
  }
};

ffi::Tensor ToHost(const ffi::Tensor& source) {
  auto* buffer = static_cast<Buffer*>(source.data_ptr());
  ffi::Tensor target = MakeHostTensor(source.shape(), source.dtype());
  Read(buffer, source.byte_offset(), target.data_ptr(), Bytes(source),
       buffer->device.CurrentStream());
  return target;
}

ffi::Tensor ToDevice(const ffi::Tensor& source, int index) {
  Device& device = OpenDevice(index);
  Stream& stream = device.CurrentStream();
  ffi::Tensor target =
      ffi::Tensor::FromNDAlloc(DeviceMemory(), source.shape(), source.dtype(),
                               DLDevice{kDLOpenCL, index}, device, stream);
  const char* data = static_cast<const char*>(source.data_ptr()) + source.byte_offset();
  Write(static_cast<Buffer*>(target.data_ptr()), 0, data, Bytes(source), stream);
  return target;
}

// Null where this is not a transfer of ours.
ffi::Optional<ffi::Tensor> Transfer(const ffi::Tensor& source, int64_t type, int64_t index) {
  const DLDeviceType from = source.device().device_type;
  if (!source.IsContiguous() || source.numel() == 0) return std::nullopt;
  if (from == kDLOpenCL && type == kDLCPU) return ToHost(source);
  if (from == kDLCPU && type == kDLOpenCL) return ToDevice(source, static_cast<int>(index));
  return std::nullopt;
}

TVM_FFI_STATIC_INIT_BLOCK() {
  constexpr const char* kName = "vm.builtin.to_device";
  const auto plain = ffi::Function::GetGlobal(kName);
  if (!plain.has_value()) return;  // a runtime without the VM
  const auto move = [plain = WithoutExceptions(*plain)](const ffi::AnyView* values, int32_t count, ffi::Any* result) {
    if (count == 3) {
      const auto moved = Transfer(values[0].cast<ffi::Tensor>(), values[1].cast<int64_t>(),
                                  values[2].cast<int64_t>());
      if (moved.has_value()) {
        *result = *moved;
        return;
      }
    }
    plain.CallPacked(values, count, result);
  };
  ffi::Function::SetGlobal(kName, Packed(move), true);
}

}  // namespace

}  // namespace syncnas::opencl
