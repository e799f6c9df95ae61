// SPDX-License-Identifier: Apache-2.0
//
// What TVM's code generator says about each kernel. The object comes from TVM's own library; its
// header is not part of the binary package, so the layout is repeated here. Same type key, same
// members in the same order.
#pragma once

#include <tvm/ffi/cast.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/enum.h>
#include <tvm/ffi/object.h>
#include <tvm/ffi/string.h>

namespace tvm::runtime {

enum class ArgExtraTags : int { kNone = 0, kTensorMap = 1 };

class FunctionInfoObj : public ffi::Object {
 public:
  ffi::String name;
  ffi::Array<DLDataType> arg_types;
  ffi::Array<ffi::String> launch_param_tags;
  ffi::Array<ArgExtraTags> arg_extra_tags;

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("runtime.FunctionInfo", FunctionInfoObj, ffi::Object);
};

class FunctionInfo : public ffi::ObjectRef {
 public:
  TVM_FFI_DEFINE_OBJECT_REF_METHODS_NULLABLE(FunctionInfo, ffi::ObjectRef, FunctionInfoObj);
};

}  // namespace tvm::runtime

namespace syncnas::opencl {

using tvm::runtime::FunctionInfo;
using FunctionInfoMap = tvm::ffi::Map<tvm::ffi::String, FunctionInfo>;

}  // namespace syncnas::opencl
