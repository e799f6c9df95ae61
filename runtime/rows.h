// SPDX-License-Identifier: Apache-2.0
//
// Rows of a tensor that go into another, as the lanes exchange them where their bands meet.
#pragma once

#include <tvm/ffi/any.h>

#include <cstddef>

namespace syncnas::opencl {

// `count` pieces of `bytes`, each `pitch` behind the one before, in the source and the destination.
struct Rows {
  size_t count = 0, bytes = 0;  // 0: everything is meant
  size_t source_offset = 0, source_pitch = 0;
  size_t offset = 0, pitch = 0;
};

// From the arguments of vm.builtin.exchange_rows: destination and source tensor, the dimension that
// rows are, the first row of either, the number of rows. Throws a ValueError where they do not fit.
Rows RowsOf(const tvm::ffi::AnyView* arguments);

void CopyRows(const void* source, void* destination, const Rows& rows);

}  // namespace syncnas::opencl
