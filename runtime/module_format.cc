// SPDX-License-Identifier: Apache-2.0
#include "module_format.h"

#include <tvm/ffi/error.h>

#include <cstring>
#include <type_traits>

namespace syncnas::opencl {

namespace {

using tvm::runtime::ArgExtraTags;
using tvm::runtime::FunctionInfoObj;

class Writer {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Text(const char* data, size_t size) {
    Number<uint64_t>(size);
    bytes.append(data, size);
  }
  void Text(const tvm::ffi::String& text) { Text(text.data(), text.size()); }

  std::string bytes;
};

class Reader {
 public:
  Reader(const char* data, size_t size) : next_(data), left_(size) {}

  template <typename T>
  T Number() {
    T value;
    std::memcpy(&value, Take(sizeof(T)), sizeof(T));
    return value;
  }
  std::string Text() {
    const auto size = Number<uint64_t>();
    const char* data = Take(size);
    return std::string(data, size);
  }

 private:
  const char* Take(uint64_t size) {
    if (size > left_) {
      TVM_FFI_THROW(ValueError) << "an OpenCL module's bytes are cut off or damaged: " << size
                                << " more bytes are announced, " << left_ << " are there";
    }
    const char* data = next_;
    next_ += size;
    left_ -= size;
    return data;
  }

  const char* next_;
  size_t left_;
};

void WriteInfo(Writer* out, const FunctionInfo& info) {
  out->Text(info->name);
  out->Number<uint64_t>(info->arg_types.size());
  for (DLDataType type : info->arg_types) {
    out->Number<uint8_t>(type.code);
    out->Number<uint8_t>(type.bits);
    out->Number<uint16_t>(type.lanes);
  }
  out->Number<uint64_t>(info->launch_param_tags.size());
  for (const tvm::ffi::String& tag : info->launch_param_tags) out->Text(tag);
  out->Number<uint64_t>(info->arg_extra_tags.size());
  for (ArgExtraTags tag : info->arg_extra_tags) out->Number<int32_t>(static_cast<int32_t>(tag));
}

FunctionInfo ReadInfo(Reader* in) {
  auto info = tvm::ffi::make_object<FunctionInfoObj>();
  info->name = in->Text();
  for (uint64_t left = in->Number<uint64_t>(); left > 0; --left) {
    DLDataType type;
    type.code = in->Number<uint8_t>();
    type.bits = in->Number<uint8_t>();
    type.lanes = in->Number<uint16_t>();
    info->arg_types.push_back(type);
  }
  for (uint64_t left = in->Number<uint64_t>(); left > 0; --left) {
    info->launch_param_tags.push_back(in->Text());
  }
  for (uint64_t left = in->Number<uint64_t>(); left > 0; --left) {
    info->arg_extra_tags.push_back(static_cast<ArgExtraTags>(in->Number<int32_t>()));
  }
  return FunctionInfo(std::move(info));
}

}  // namespace

std::string Serialize(const ModuleContent& content) {
  Writer out;
  out.Text(content.format.data(), content.format.size());
  out.Number<uint64_t>(content.functions.size());
  for (const auto& [key, info] : content.functions) {
    out.Text(key);
    WriteInfo(&out, info);
  }
  out.Text(content.code.data(), content.code.size());
  return std::move(out.bytes);
}

ModuleContent Deserialize(const char* data, size_t size) {
  Reader in(data, size);
  ModuleContent content;
  content.format = in.Text();
  for (uint64_t left = in.Number<uint64_t>(); left > 0; --left) {
    const std::string key = in.Text();
    content.functions.Set(key, ReadInfo(&in));
  }
  content.code = in.Text();
  return content;
}

}  // namespace syncnas::opencl
