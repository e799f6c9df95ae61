// SPDX-License-Identifier: Apache-2.0
//
// Tensors on the CPU, and their sizes.
#pragma once

#include <tvm/ffi/container/tensor.h>

#include "tensor_spec.h"

namespace syncnas::runner {

// A tensor of `spec`'s shape, all zero, aligned as TVM's kernels want it.
tvm::ffi::Tensor MakeHostTensor(const TensorSpec& spec);

size_t SpecBytes(const TensorSpec& spec);
// Zeros, aligned as TVM's kernels want it.
void* AllocateHost(size_t bytes);
void FreeHost(void* data);

size_t TensorBytes(const DLTensor& tensor);

}  // namespace syncnas::runner
