// SPDX-License-Identifier: Apache-2.0
//
// vm.builtin.exchange_rows(own, source, axis, first, source first, rows) -> a copy of own, with rows
// of the other lane's source from row `first` on.
// vm.builtin.rows_to_device(tensor, device type, device id, axis, first, rows) -> a copy on that
// device, of which these rows are needed.
//
// Models call them in the one run that is captured. Later runs copy the rows alone, those of
// exchange_rows into own (runner/capture.h).
#include "rows.h"

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

#include <cstring>

#include "boundary.h"
#include "copies.h"
#include "device.h"
#include "host_memory.h"

namespace syncnas::opencl {

namespace {

namespace ffi = tvm::ffi;

char* Data(const ffi::Tensor& tensor) {
  return static_cast<char*>(tensor.data_ptr()) + tensor.byte_offset();
}

const ffi::Function& Move() {
  static const ffi::Function move = TvmFunction("vm.builtin.to_device");
  return move;
}

// A copy on the host of a tensor that is anywhere.
ffi::Tensor OnHost(const ffi::Tensor& tensor) {
  ffi::Tensor copy = MakeHostTensor(tensor.shape(), tensor.dtype());
  const size_t bytes = ffi::GetDataSize(tensor.numel(), tensor.dtype());
  if (tensor.device().device_type == kDLCPU) {
    std::memcpy(copy.data_ptr(), Data(tensor), bytes);
  } else {
    auto* buffer = static_cast<Buffer*>(tensor.data_ptr());
    Read(buffer, tensor.byte_offset(), copy.data_ptr(), bytes, buffer->device.CurrentStream());
  }
  return copy;
}

void Exchange(const ffi::AnyView* arguments, int32_t count, ffi::Any* result) {
  if (count != 6) TVM_FFI_THROW(TypeError) << "exchange_rows takes 6 arguments, found " << count;
  const auto own = arguments[0].cast<ffi::Tensor>();
  const ffi::Tensor merged = OnHost(own);
  const auto source = arguments[1].cast<ffi::Tensor>();
  CopyRows(Data(OnHost(source)), Data(merged), RowsOf(own, source, arguments + 2));
  const DLDevice device = own.device();
  *result = device.device_type == kDLCPU
                ? merged
                : Move()(merged, static_cast<int>(device.device_type), device.device_id)
                      .cast<ffi::Tensor>();
}

void ToDevice(const ffi::AnyView* arguments, int32_t count, ffi::Any* result) {
  if (count != 6) TVM_FFI_THROW(TypeError) << "rows_to_device takes 6 arguments, found " << count;
  RowsOf(arguments[0].cast<ffi::Tensor>(), arguments + 3);
  Move().CallPacked(arguments, 3, result);
}

TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::Function::SetGlobal("vm.builtin.rows_to_device", Packed(ToDevice), true);
  ffi::Function::SetGlobal("vm.builtin.exchange_rows", Packed(Exchange), true);
}

}  // namespace

Rows RowsOf(const ffi::Tensor& tensor, const ffi::AnyView* numbers) {
  const ffi::AnyView both[4] = {numbers[0], numbers[1], numbers[1], numbers[2]};
  return RowsOf(tensor, tensor, both);
}

Rows RowsOf(const ffi::Tensor& own, const ffi::Tensor& source, const ffi::AnyView* numbers) {
  const auto axis = numbers[0].cast<int>();
  const auto first = numbers[1].cast<int64_t>(), source_first = numbers[2].cast<int64_t>();
  const auto rows = numbers[3].cast<int64_t>();
  bool fits = own.dtype() == source.dtype() && own.ndim() == source.ndim() && axis >= 0 &&
              axis < own.ndim() && first >= 0 && source_first >= 0 && rows > 0 &&
              first + rows <= own.size(axis) && source_first + rows <= source.size(axis) &&
              own.IsContiguous() && source.IsContiguous();
  size_t count = 1, inner = ffi::GetDataSize(1, own.dtype());
  for (int i = 0; fits && i < own.ndim(); ++i) {
    if (i == axis) continue;
    fits = own.size(i) == source.size(i);
    (i < axis ? count : inner) *= static_cast<size_t>(own.size(i));
  }
  if (!fits) TVM_FFI_THROW(ValueError) << "rows to exchange do not fit; compile the model again";
  Rows found;
  found.count = count;
  found.bytes = inner * static_cast<size_t>(rows);
  found.source_offset = inner * static_cast<size_t>(source_first);
  found.source_pitch = inner * static_cast<size_t>(source.size(axis));
  found.offset = inner * static_cast<size_t>(first);
  found.pitch = inner * static_cast<size_t>(own.size(axis));
  return found;
}

void CopyRows(const void* source, void* destination, const Rows& rows) {
  const char* from = static_cast<const char*>(source) + rows.source_offset;
  char* to = static_cast<char*>(destination) + rows.offset;
  for (size_t i = 0; i < rows.count; ++i) {
    std::memcpy(to + i * rows.pitch, from + i * rows.source_pitch, rows.bytes);
  }
}

}  // namespace syncnas::opencl
