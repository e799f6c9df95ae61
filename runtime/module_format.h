// SPDX-License-Identifier: Apache-2.0
//
// The bytes in which an OpenCL module travels inside a compiled library. It is TVM's own format, so
// libraries can be exchanged with programs that use TVM's OpenCL runtime, in both directions:
//
//   str format | u64 n | n x (str key, info) | str code
//   info = str name | u64 n, n x (u8 code, u8 bits, u16 lanes) | u64 n, n x str tag | u64 n, n x i32
//   str  = u64 length, bytes                                     (all little endian)
#pragma once

#include <tvm/ffi/string.h>

#include <string>

#include "function_info.h"

namespace syncnas::opencl {

struct ModuleContent {
  std::string format;  // "cl": OpenCL C source
  FunctionInfoMap functions;
  std::string code;
};

std::string Serialize(const ModuleContent& content);

// Throws a ValueError when the bytes are cut off or malformed.
ModuleContent Deserialize(const char* data, size_t size);

}  // namespace syncnas::opencl
