// SPDX-License-Identifier: Apache-2.0
#include "manifest.h"

#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/json.h>

#include <fstream>
#include <sstream>

// Set by CMake where it knows them.
#ifndef SYNCNAS_TVM_VERSION
#define SYNCNAS_TVM_VERSION ""
#endif
#ifndef SYNCNAS_TVM_FFI_VERSION
#define SYNCNAS_TVM_FFI_VERSION ""
#endif

namespace syncnas::runner {

namespace {

namespace json = tvm::ffi::json;
using tvm::ffi::String;

constexpr int64_t kFormat = 1;

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    TVM_FFI_THROW(RuntimeError) << path << " cannot be read; give the folder that "
                                << "'python -m syncnas_tvm.compile --output' wrote";
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

template <typename T>
T Field(const json::Object& object, const char* name) {
  const auto value = object.Get(String(name));
  if (!value.has_value()) TVM_FFI_THROW(RuntimeError) << "'" << name << "' is missing";
  return value->template cast<T>();
}

std::vector<int> Integers(const json::Object& object, const char* name) {
  std::vector<int> numbers;
  // Folders of earlier versions do not have every list.
  const auto list = object.Get(String(name));
  if (!list.has_value()) return numbers;
  for (const auto& item : list->cast<json::Array>()) numbers.push_back(item.cast<int>());
  return numbers;
}

std::vector<TensorSpec> Tensors(const json::Object& object, const char* name) {
  std::vector<TensorSpec> tensors;
  for (const auto& item : Field<json::Array>(object, name)) {
    const auto fields = item.cast<json::Object>();
    TensorSpec spec;
    spec.name = Field<String>(fields, "name");
    spec.dtype = Field<String>(fields, "dtype");
    for (const auto& extent : Field<json::Array>(fields, "shape")) {
      spec.shape.push_back(extent.cast<int64_t>());
    }
    tensors.push_back(std::move(spec));
  }
  return tensors;
}

void CheckVersion(const json::Object& versions, const char* package, const std::string& here) {
  const std::string built = Field<String>(versions, package);
  if (here.empty() || built == here) return;
  TVM_FFI_THROW(RuntimeError) << "it was compiled with " << package << " " << built
                              << ", this device's runtime is " << here
                              << "; build the bundle again, or compile the model again";
}

}  // namespace

Manifest ParseManifest(const std::string& text) {
  String problem;
  const json::Value parsed = json::Parse(text, &problem);
  if (!problem.empty()) TVM_FFI_THROW(RuntimeError) << "it is no JSON: " << std::string(problem);
  const auto object = parsed.cast<json::Object>();
  if (Field<int64_t>(object, "format") != kFormat) {
    TVM_FFI_THROW(RuntimeError) << "it has another format than this version reads";
  }
  const auto versions = Field<json::Object>(object, "versions");
  CheckVersion(versions, "apache-tvm", SYNCNAS_TVM_VERSION);
  CheckVersion(versions, "apache-tvm-ffi", SYNCNAS_TVM_FFI_VERSION);
  Manifest manifest;
  manifest.target = Field<String>(object, "target");
  for (const auto& lane : Field<json::Array>(object, "lanes")) {
    manifest.uses_gpu = manifest.uses_gpu || std::string(lane.cast<String>()) == "gpu";
  }
  manifest.cpus = Integers(object, "cpus");
  if (const auto threads = object.Get(String("cpu_threads")); threads.has_value()) {
    manifest.cpu_threads = threads->cast<int>();
  }
  manifest.inputs = Tensors(object, "inputs");
  manifest.outputs = Tensors(object, "outputs");
  return manifest;
}

Manifest ReadManifest(const std::string& folder) {
  const std::string path = folder + "/manifest.json";
  const std::string text = ReadText(path);
  try {
    return ParseManifest(text);
  } catch (const tvm::ffi::Error& error) {
    TVM_FFI_THROW(RuntimeError) << path << ": " << error.message();
  }
}

}  // namespace syncnas::runner
