// SPDX-License-Identifier: Apache-2.0
#include "kernel_signature.h"

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace syncnas::opencl {

namespace {

constexpr size_t kNoAxis = SIZE_MAX;

size_t AxisOf(const std::string& tag) {
  static const char* const kAxes[] = {"blockIdx.x",  "blockIdx.y",  "blockIdx.z",
                                      "threadIdx.x", "threadIdx.y", "threadIdx.z"};
  for (size_t axis = 0; axis < 6; ++axis) {
    if (tag == kAxes[axis]) return axis;
  }
  return kNoAxis;
}

// The upper bits of `bits` are dropped with round-to-nearest-even: how a float loses precision.
uint32_t RoundShift(uint32_t bits, int shift) {
  const uint32_t half = 1u << (shift - 1);
  const uint32_t odd = (bits >> shift) & 1u;
  return (bits + half - 1 + odd) >> shift;
}

uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

uint16_t ToHalf(float value) {
  const uint32_t bits = BitsOf(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return sign | 0x7E00u;   // NaN
  if (magnitude >= 0x477FF000u) return sign | 0x7C00u;  // rounds to more than 65504: infinity
  if (magnitude >= 0x38800000u) {                       // normal: change the exponent's bias
    return static_cast<uint16_t>(sign | RoundShift(magnitude - 0x38000000u, 13));
  }
  const int shift = 126 - static_cast<int>(magnitude >> 23);  // subnormal: a fixed exponent
  if (shift > 24) return sign;
  const uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
  return static_cast<uint16_t>(sign | RoundShift(mantissa, shift));
}

uint16_t ToBfloat16(float value) {
  if (value != value) return 0x7FC0u;
  return static_cast<uint16_t>(RoundShift(BitsOf(value), 16));
}

template <typename T>
ScalarBits Bits(T value) {
  ScalarBits scalar;
  std::memcpy(scalar.bytes.data(), &value, sizeof(value));
  scalar.size = sizeof(value);
  return scalar;
}

std::string Describe(DLDataType type) { return tvm::ffi::DLDataTypeToString(type); }

// A float parameter may be given as an integer or a bool, as everywhere in Python.
double AsDouble(const TVMFFIAny& value) {
  return value.type_index == kTVMFFIFloat ? value.v_float64
                                                    : static_cast<double>(value.v_int64);
}

bool IsNumber(const TVMFFIAny& value) {
  return value.type_index == kTVMFFIInt || value.type_index == kTVMFFIFloat ||
         value.type_index == kTVMFFIBool;
}

}  // namespace

KernelSignature::KernelSignature(const FunctionInfo& info)
    : name_(info->name), types_(info->arg_types.begin(), info->arg_types.end()) {
  for (const DLDataType& type : types_) {
    const bool one_bit = type.bits == 1;  // TVM's older way to write bool
    if (type.lanes != 1 || (type.bits % 8 != 0 && !one_bit) || type.bits > 64) {
      TVM_FFI_THROW(ValueError) << "OpenCL: kernel '" << name_ << "' has a parameter of type "
                                << Describe(type) << ", which cannot be passed by value";
    }
  }
  for (const tvm::ffi::String& tag : info->launch_param_tags) {
    const size_t axis = AxisOf(tag);
    if (axis == kNoAxis) {
      TVM_FFI_THROW(ValueError) << "OpenCL: kernel '" << name_ << "' has the launch parameter '"
                                << tag << "', which OpenCL does not have; use blockIdx and "
                                << "threadIdx in x, y, z, and shared memory of fixed size";
    }
    axes_.push_back(axis);
    dimensions_ = std::max(dimensions_, axis % 3 + 1);
  }
}

void KernelSignature::CheckCount(int32_t count) const {
  const size_t wanted = types_.size() + axes_.size();
  if (static_cast<size_t>(count) == wanted) return;
  TVM_FFI_THROW(TypeError) << "OpenCL: kernel '" << name_ << "' takes " << types_.size()
                           << " arguments and " << axes_.size() << " launch extents, but was given "
                           << count << " values";
}

Buffer* KernelSignature::BufferArgument(const TVMFFIAny& value, size_t index) const {
  const DLTensor* tensor = nullptr;
  switch (value.type_index) {
    case kTVMFFINone:
      return nullptr;
    case kTVMFFIOpaquePtr:
      return static_cast<Buffer*>(value.v_ptr);
    case kTVMFFIDLTensorPtr:
      tensor = static_cast<const DLTensor*>(value.v_ptr);
      break;
    case kTVMFFITensor:
      tensor = TVMFFITensorGetDLTensorPtr(value.v_obj);
      break;
    default:
      break;
  }
  if (tensor == nullptr || tensor->device.device_type != kDLOpenCL || tensor->byte_offset != 0) {
    TVM_FFI_THROW(TypeError) << "OpenCL: argument " << index << " of kernel '" << name_
                             << "' must be memory of an OpenCL device, from its beginning";
  }
  return static_cast<Buffer*>(tensor->data);
}

ScalarBits KernelSignature::ScalarArgument(const TVMFFIAny& value, size_t index) const {
  const DLDataType type = types_[index];
  if (!IsNumber(value)) {
    TVM_FFI_THROW(TypeError) << "OpenCL: argument " << index << " of kernel '" << name_
                             << "' must be a number (" << Describe(type) << ")";
  }
  if (type.code == kDLFloat) {
    if (type.bits == 64) return Bits(AsDouble(value));
    if (type.bits == 32) return Bits(static_cast<float>(AsDouble(value)));
    if (type.bits == 16) return Bits(ToHalf(static_cast<float>(AsDouble(value))));
  } else if (type.code == kDLBfloat && type.bits == 16) {
    return Bits(ToBfloat16(static_cast<float>(AsDouble(value))));
  } else if ((type.code == kDLInt || type.code == kDLUInt || type.code == kDLBool) &&
             value.type_index != kTVMFFIFloat) {
    // A narrower integer is the low bytes of the wide one, signed or not.
    ScalarBits scalar = Bits(value.v_int64);
    scalar.size = std::max<size_t>(type.bits / 8, 1);
    return scalar;
  }
  TVM_FFI_THROW(TypeError) << "OpenCL: argument " << index << " of kernel '" << name_ << "' is a "
                           << Describe(type) << ", and the value given cannot become one";
  TVM_FFI_UNREACHABLE();
}

LaunchShape KernelSignature::Shape(const TVMFFIAny* extents) const {
  LaunchShape shape;
  shape.dimensions = dimensions_;
  for (size_t i = 0; i < axes_.size(); ++i) {
    const auto extent = static_cast<size_t>(extents[i].v_int64);
    (axes_[i] < 3 ? shape.global : shape.local)[axes_[i] % 3] = extent;
  }
  // TVM counts work-groups, OpenCL counts work-items.
  for (size_t axis = 0; axis < 3; ++axis) shape.global[axis] *= shape.local[axis];
  return shape;
}

}  // namespace syncnas::opencl
