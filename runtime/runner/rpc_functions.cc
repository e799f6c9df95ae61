// SPDX-License-Identifier: Apache-2.0
//
// The runner over TVM RPC: syncnas.runner.load(folder) gives a module whose functions do the rest.
// Only numbers, strings and CPU tensors cross the wire, so weights never do after the upload.
#include <sys/statvfs.h>
#include <tvm/ffi/cast.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "../boundary.h"
#include "../json.h"
#include "runner.h"
#include "thermal.h"

namespace syncnas::runner {

namespace {

namespace ffi = tvm::ffi;

std::string ListText(const std::vector<double>& values) {
  std::string text = "[";
  char number[32];
  for (size_t i = 0; i < values.size(); ++i) {
    std::snprintf(number, sizeof(number), "%s%.3f", i == 0 ? "" : ", ", values[i]);
    text += number;
  }
  return text + "]";
}

class RunnerModule final : public ffi::ModuleObj {
 public:
  explicit RunnerModule(const std::string& folder) : runner_(folder) {}
  RunnerModule(const std::string& folder, Manifest manifest, CpuLane lane)
      : runner_(folder, std::move(manifest), std::move(lane)) {}

  const char* kind() const final { return "syncnas_runner"; }
  int GetPropertyMask() const final { return ffi::Module::kRunnable; }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    // Each function keeps the module alive.
    ffi::ObjectPtr<RunnerModule> self = ffi::GetObjectPtr<RunnerModule>(this);
    if (name == "set_input") {
      return Typed([self](int64_t index, DLTensor* tensor) {
        self->runner_.SetInput(index, *tensor);
      });
    }
    if (name == "run") return Typed([self] { self->runner_.Run(); });
    if (name == "output") {
      return Typed(
          [self](int64_t index) { return self->runner_.GetOutput(index); });
    }
    if (name == "time") {  // (most runs, seconds or 0) -> JSON list of microseconds
      return Typed([self](int64_t repeat, double seconds) {
        return ffi::String(ListText(self->runner_.Time(repeat, seconds)));
      });
    }
    if (name == "profile") {
      return Typed([self] { return ffi::String(self->runner_.Profile()); });
    }
    if (name == "describe") {
      return Typed([self] { return ffi::String(self->runner_.Describe()); });
    }
    return std::nullopt;
  }

 private:
  Runner runner_;
};

// Inside an RPC session names are relative to its work folder.
std::string Resolve(const std::string& path) {
  const auto workpath = ffi::Function::GetGlobal("tvm.rpc.server.workpath");
  if (!workpath.has_value() || (!path.empty() && path[0] == '/')) return path;
  return WithoutExceptions(*workpath)(path).cast<std::string>();
}

ffi::Module Load(const ffi::String& folder) {
  return ffi::Module(ffi::make_object<RunnerModule>(Resolve(folder)));
}

// For a process that gives its lanes their cores itself, and whose manifest may be no file yet.
ffi::Module LoadUnbound(const std::string& folder, const std::string& manifest) {
  return ffi::Module(ffi::make_object<RunnerModule>(folder, ParseManifest(manifest), CpuLane()));
}

// Whether an upload arrived whole: its size (-1 where it is not there) and what is free beside it.
ffi::String FileStatus(const ffi::String& name) {
  const std::string path = Resolve(name);
  std::error_code problem;
  const auto size = std::filesystem::file_size(path, problem);
  struct statvfs disk = {};
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const bool known = statvfs(folder.empty() ? "." : folder.c_str(), &disk) == 0;
  const auto free_bytes = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
  return opencl::JsonObject()
      .Add("bytes", problem ? int64_t{-1} : static_cast<int64_t>(size))
      .Add("free_bytes", known ? free_bytes : int64_t{-1})
      .Text();
}

TVM_FFI_STATIC_INIT_BLOCK() {
  DefineGlobals()
      .def("syncnas.runner.load", Load)
      .def("syncnas.runner.load_unbound", LoadUnbound)
      .def("syncnas.runner.file_status", FileStatus)
      .def("syncnas.runner.hottest_celsius", HottestCelsius);
}

}  // namespace

}  // namespace syncnas::runner
