// SPDX-License-Identifier: Apache-2.0
//
// How the values of a TVM call become the arguments and the extents of an OpenCL kernel launch.
// A call carries the kernel's arguments first, then one extent per launch tag.
#pragma once

#include <tvm/ffi/any.h>

#include <array>
#include <cstddef>
#include <vector>

#include "function_info.h"

namespace syncnas::opencl {

class Buffer;

// A scalar in the representation that the kernel's parameter has.
struct ScalarBits {
  alignas(8) std::array<unsigned char, 8> bytes{};
  size_t size = 0;
};

struct LaunchShape {
  size_t dimensions = 1;
  std::array<size_t, 3> global{1, 1, 1};
  std::array<size_t, 3> local{1, 1, 1};
};

class KernelSignature {
 public:
  // Throws when the kernel wants something that OpenCL launches do not have.
  explicit KernelSignature(const FunctionInfo& info);

  size_t argument_count() const { return types_.size(); }
  bool IsBuffer(size_t index) const { return types_[index].code == kDLOpaqueHandle; }

  // Throws unless the call has exactly the values that the signature asks for.
  void CheckCount(int32_t count) const;

  // `value` as a buffer: a data pointer, or a tensor on an OpenCL device. Null stays null.
  Buffer* BufferArgument(const TVMFFIAny& value, size_t index) const;
  ScalarBits ScalarArgument(const TVMFFIAny& value, size_t index) const;

  // `extents` are the values behind the arguments.
  LaunchShape Shape(const TVMFFIAny* extents) const;

 private:
  const std::string name_;
  std::vector<DLDataType> types_;
  // For each tag: 0 to 2 for blockIdx.x to z, 3 to 5 for threadIdx.x to z.
  std::vector<size_t> axes_;
  size_t dimensions_ = 1;
};

}  // namespace syncnas::opencl
