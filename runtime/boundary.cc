// SPDX-License-Identifier: Apache-2.0
#include "boundary.h"

#include <tvm/ffi/container/shape.h>

namespace syncnas {

namespace {

// Neither of the two may be inlined: what initialises them has something to clean up.

// A function of TVM's that calls what it is given, and throws what that has noted.
[[gnu::noinline]] const ffi::FunctionObj* Caller() {
  static const auto* caller =
      new ffi::Function(ffi::Function::GetGlobalRequired("vm.builtin.call_tir_dyn"));
  return caller->get();
}

// What it is given: a function that fails (the error is noted already), and the shape () to pass on.
[[gnu::noinline]] const TVMFFIAny* Arguments() {
  static const auto* kept = new ffi::Any[2]{
      ffi::Function::FromExternC(
          nullptr, [](void*, const TVMFFIAny*, int32_t, TVMFFIAny*) -> int { return -1; }, nullptr),
      ffi::Shape()};
  return reinterpret_cast<const TVMFFIAny*>(kept);
}

}  // namespace

void RaiseInTvm() {
  const ffi::FunctionObj* caller = Caller();
  const TVMFFIAny* arguments = Arguments();
  TVMFFIAny nothing = {};
  reinterpret_cast<ffi::FunctionObj::FCall>(caller->cpp_call)(
      caller, reinterpret_cast<const ffi::AnyView*>(arguments), 2,
      reinterpret_cast<ffi::Any*>(&nothing));
}

}  // namespace syncnas
