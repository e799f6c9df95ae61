// SPDX-License-Identifier: Apache-2.0
//
// Memory of the CPU lane, aligned as its kernels take for granted: their vector loads are aligned ones.
#pragma once

#include <tvm/ffi/container/tensor.h>

#include <cstddef>

namespace syncnas::opencl {

// Not initialized; throws std::bad_alloc.
void* AllocateHost(size_t bytes);
void FreeHost(void* data);

// A CPU tensor with such memory.
tvm::ffi::Tensor MakeHostTensor(tvm::ffi::ShapeView shape, DLDataType type);

}  // namespace syncnas::opencl
