// SPDX-License-Identifier: Apache-2.0
//
// Where this project's C++ meets TVM's: errors cross as values, never as C++ exceptions.
//
// Each side may have a C++ runtime of its own (programs for boards are built with LLVM's, TVM's are
// built with GNU's; Android has one in each library), and an exception of one cannot be caught by the
// other. So functions of ours are registered with DefineGlobals, or wrapped in WithoutExceptions where
// TVM gets them otherwise; TVM's are called as TvmFunction, TvmMember or in WithoutExceptions; and
// virtual functions that TVM calls do their work in RaisingInTvm.
#pragma once

#include <tvm/ffi/any.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <string>
#include <utility>

namespace syncnas {

namespace ffi = tvm::ffi;

// The same function; an error is handed over in between, and thrown where the call is.
inline ffi::Function WithoutExceptions(ffi::Function function) {
  const TVMFFISafeCallType call = function.get()->safe_call;
  void* handle = ffi::details::ObjectUnsafe::MoveObjectRefToTVMFFIObjectPtr(std::move(function));
  return ffi::Function::FromExternC(handle, call, [](void* self) { TVMFFIObjectDecRef(self); });
}

template <typename Callable>
ffi::Function Typed(Callable callable) {
  return WithoutExceptions(ffi::Function::FromTyped(std::move(callable)));
}

template <typename Callable>
ffi::Function Packed(Callable callable) {
  return WithoutExceptions(ffi::Function::FromPacked(std::move(callable)));
}

// As TVM's reflection::GlobalDef: a name that is taken already is an error.
class DefineGlobals {
 public:
  template <typename Callable>
  DefineGlobals& def(const char* name, Callable callable) {
    ffi::Function::SetGlobal(
        name, WithoutExceptions(ffi::Function::FromTyped(std::move(callable), name)), false);
    return *this;
  }
};

// A global function of TVM's; throws where this TVM has none of that name.
inline ffi::Function TvmFunction(const char* name) {
  return WithoutExceptions(ffi::Function::GetGlobalRequired(name));
}

inline ffi::Module LoadModule(const std::string& path) {
  static const ffi::Function load = TvmFunction("ffi.ModuleLoadFromFile");
  return load(path).cast<ffi::Module>();
}

// A function of a module of TVM's or what it imports, if there is one.
inline ffi::Optional<ffi::Function> TvmMember(const ffi::Module& module, const char* name) {
  static const ffi::Function get = TvmFunction("ffi.ModuleGetFunction");
  auto found = get(module, name, true).cast<ffi::Optional<ffi::Function>>();
  if (found.has_value()) return WithoutExceptions(*found);
  return std::nullopt;
}

// Throws, in TVM's own library, the error that the last Try noted.
//
// No frame between TVM and here may have anything to clean up: those of this library's C++ runtime
// cannot let TVM's exceptions through.
void RaiseInTvm();

// Not inlined: its frame has a handler.
template <typename Work>
[[gnu::noinline]] int Try(const Work& work) {
  TVM_FFI_SAFE_CALL_BEGIN();
  work();
  TVM_FFI_SAFE_CALL_END();
}

// The body of a virtual function that TVM calls.
template <typename Work>
inline void RaisingInTvm(const Work& work) {
  if (Try(work) != 0) RaiseInTvm();
}

}  // namespace syncnas
