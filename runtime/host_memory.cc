// SPDX-License-Identifier: Apache-2.0
#include "host_memory.h"

#include <cstdlib>
#include <new>

namespace syncnas::opencl {

namespace {

namespace ffi = tvm::ffi;

constexpr size_t kAlignment = 64;

struct HostMemory {
  void AllocData(DLTensor* tensor) { tensor->data = AllocateHost(ffi::GetDataSize(*tensor)); }
  void FreeData(DLTensor* tensor) { FreeHost(tensor->data); }
};

}  // namespace

void* AllocateHost(size_t bytes) {
  const size_t size = (bytes + kAlignment) / kAlignment * kAlignment;  // a multiple, and never 0
  void* data = std::aligned_alloc(kAlignment, size);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

void FreeHost(void* data) { std::free(data); }

ffi::Tensor MakeHostTensor(ffi::ShapeView shape, DLDataType type) {
  return ffi::Tensor::FromNDAlloc(HostMemory(), shape, type, DLDevice{kDLCPU, 0});
}

}  // namespace syncnas::opencl
