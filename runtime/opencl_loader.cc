// SPDX-License-Identifier: Apache-2.0
#include "opencl_loader.h"

#include <dlfcn.h>
#include <tvm/ffi/error.h>

#include <cstdlib>
#include <vector>

namespace syncnas::opencl {

const char* const kInstallHint =
    "install the GPU vendor's OpenCL driver, or run 'python -m syncnas_tvm.opencl_setup' to set up "
    "PoCL, an OpenCL implementation for CPUs (on Debian: apt-get install pocl-opencl-icd)";

namespace {

// In order of preference. Names without a slash go through the system's search path (and, on
// Android, through the app's linker namespace: <uses-native-library> makes libOpenCL.so visible).
std::vector<std::string> LibraryNames() {
  if (const char* chosen = std::getenv("SYNCNAS_OPENCL_LIBRARY"); chosen && *chosen) {
    return {chosen};
  }
  return {
      "libOpenCL.so.1",
      "libOpenCL.so",
#if defined(__LP64__)
      "/vendor/lib64/libOpenCL.so",
      "/system/vendor/lib64/libOpenCL.so",
      "/system/lib64/libOpenCL.so",
      "/vendor/lib64/egl/libGLES_mali.so",
      "/system/vendor/lib64/egl/libGLES_mali.so",
      "/vendor/lib64/libPVROCL.so",
#else
      "/vendor/lib/libOpenCL.so",
      "/system/vendor/lib/libOpenCL.so",
      "/system/lib/libOpenCL.so",
      "/vendor/lib/egl/libGLES_mali.so",
      "/system/vendor/lib/egl/libGLES_mali.so",
      "/vendor/lib/libPVROCL.so",
#endif
      // Boards with ARM's blob and no ICD loader (RK3399 and its relatives).
      "libmali.so.1",
      "libmali.so",
  };
}

// Fills the table from an open library; returns the name of the first missing entry point.
const char* Resolve(void* library, EntryPoints* table) {
#define SYNCNAS_RESOLVE_ENTRY_POINT(result, name, parameters)                   \
  table->name = reinterpret_cast<result(*) parameters>(dlsym(library, #name));  \
  if (table->name == nullptr) return #name;
  SYNCNAS_OPENCL_ENTRY_POINTS(SYNCNAS_RESOLVE_ENTRY_POINT)
#undef SYNCNAS_RESOLVE_ENTRY_POINT
#define SYNCNAS_RESOLVE_OPTIONAL(result, name, parameters) \
  table->name = reinterpret_cast<result(*) parameters>(dlsym(library, #name));
  SYNCNAS_OPENCL_OPTIONAL_ENTRY_POINTS(SYNCNAS_RESOLVE_OPTIONAL)
#undef SYNCNAS_RESOLVE_OPTIONAL
  return nullptr;
}

struct Loaded {
  EntryPoints table;
  bool usable = false;
  std::string problem;

  Loaded() {
    std::string tried;
    for (const std::string& name : LibraryNames()) {
      void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr) {
        tried += (tried.empty() ? "" : ", ") + name;
        continue;
      }
      // A Mali driver library exports GLES too and may come without OpenCL: try the next one.
      if (const char* missing = Resolve(library, &table)) {
        tried += (tried.empty() ? "" : ", ") + name + " (has no " + missing + ")";
        dlclose(library);
        continue;
      }
      usable = true;
      return;
    }
    problem = "no OpenCL library was found (tried " + tried + ")";
  }
};

}  // namespace

const EntryPoints* FindOpenCL(std::string* problem) {
  static const Loaded* loaded = new Loaded();  // never freed: used until the process is gone
  if (!loaded->usable && problem != nullptr) *problem = loaded->problem;
  return loaded->usable ? &loaded->table : nullptr;
}

const EntryPoints& CL() {
  static const EntryPoints* const table = FindOpenCL(nullptr);
  if (table == nullptr) {
    std::string problem;
    FindOpenCL(&problem);
    TVM_FFI_THROW(RuntimeError) << "OpenCL: " << problem << "; " << kInstallHint;
  }
  return *table;
}

}  // namespace syncnas::opencl
