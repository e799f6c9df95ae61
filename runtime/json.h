// SPDX-License-Identifier: Apache-2.0
//
// Just enough JSON to hand lists of flat records to Python.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace syncnas::opencl {

// Writes one object; fields keep the order in which they are added.
class JsonObject {
 public:
  JsonObject& Add(const char* key, const std::string& value) {
    return AddRaw(key, Quote(value));
  }
  JsonObject& Add(const char* key, const char* value) { return AddRaw(key, Quote(value)); }
  JsonObject& Add(const char* key, bool value) { return AddRaw(key, value ? "true" : "false"); }
  JsonObject& Add(const char* key, int64_t value) { return AddRaw(key, std::to_string(value)); }

  std::string Text() const { return "{" + fields_ + "}"; }

 private:
  JsonObject& AddRaw(const char* key, const std::string& value) {
    if (!fields_.empty()) fields_ += ", ";
    fields_ += Quote(key) + ": " + value;
    return *this;
  }

  static std::string Quote(const std::string& text) {
    std::string quoted = "\"";
    for (unsigned char c : text) {
      if (c == '"' || c == '\\') {
        quoted += '\\';
        quoted += static_cast<char>(c);
      } else if (c < 0x20) {
        char escape[8];
        std::snprintf(escape, sizeof(escape), "\\u%04x", c);
        quoted += escape;
      } else {
        quoted += static_cast<char>(c);
      }
    }
    return quoted + "\"";
  }

  std::string fields_;
};

class JsonList {
 public:
  void Add(const JsonObject& object) {
    if (!items_.empty()) items_ += ", ";
    items_ += object.Text();
  }
  std::string Text() const { return "[" + items_ + "]"; }

 private:
  std::string items_;
};

}  // namespace syncnas::opencl
