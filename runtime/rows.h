// SPDX-License-Identifier: Apache-2.0
//
// Rows of a tensor that go into another, as the lanes exchange them where their bands meet.
#pragma once

#include <tvm/ffi/any.h>
#include <tvm/ffi/container/tensor.h>

#include <cstddef>

namespace syncnas::opencl {

// `count` pieces of `bytes`, each `pitch` behind the one before, in the source and the destination.
struct Rows {
  size_t count = 0, bytes = 0;  // 0: everything is meant
  size_t source_offset = 0, source_pitch = 0;
  size_t offset = 0, pitch = 0;
};

// `numbers`: the dimension that rows are, the first row in the destination and in the source, the
// number of rows. Throws a ValueError where they do not fit.
Rows RowsOf(const tvm::ffi::Tensor& destination, const tvm::ffi::Tensor& source,
            const tvm::ffi::AnyView* numbers);
// `numbers`: the same of one tensor, without the source's first row.
Rows RowsOf(const tvm::ffi::Tensor& tensor, const tvm::ffi::AnyView* numbers);

void CopyRows(const void* source, void* destination, const Rows& rows);

}  // namespace syncnas::opencl
