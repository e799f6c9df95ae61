// SPDX-License-Identifier: Apache-2.0
#include "host_tensor.h"

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace syncnas::runner {

namespace {

constexpr size_t kAlignment = 64;

size_t ItemBytes(DLDataType type) { return (static_cast<size_t>(type.bits) * type.lanes + 7) / 8; }

struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    tensor->data = AllocateHost(TensorBytes(*tensor));
  }
  void FreeData(DLTensor* tensor) { FreeHost(tensor->data); }
};

}  // namespace

void* AllocateHost(size_t bytes) {
  const size_t size = (bytes + kAlignment) / kAlignment * kAlignment;
  void* data = std::aligned_alloc(kAlignment, size);
  if (data == nullptr) throw std::bad_alloc();
  std::memset(data, 0, size);
  return data;
}

void FreeHost(void* data) { std::free(data); }

size_t TensorBytes(const DLTensor& tensor) {
  size_t bytes = ItemBytes(tensor.dtype);
  for (int i = 0; i < tensor.ndim; ++i) bytes *= static_cast<size_t>(tensor.shape[i]);
  return bytes;
}

size_t SpecBytes(const TensorSpec& spec) {
  size_t bytes = ItemBytes(tvm::ffi::StringToDLDataType(spec.dtype));
  for (int64_t extent : spec.shape) bytes *= static_cast<size_t>(extent);
  return bytes;
}

tvm::ffi::Tensor MakeHostTensor(const TensorSpec& spec) {
  const DLDataType type = tvm::ffi::StringToDLDataType(spec.dtype);
  const tvm::ffi::Shape shape(spec.shape.begin(), spec.shape.end());
  return tvm::ffi::Tensor::FromNDAlloc(AlignedMemory(), shape, type, DLDevice{kDLCPU, 0});
}

}  // namespace syncnas::runner
