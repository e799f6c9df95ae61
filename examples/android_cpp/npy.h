// SPDX-License-Identifier: Apache-2.0
//
// Reads and writes numpy's .npy files: row-major, little-endian.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct NpyArray {
  std::string type;  // as in the file: "<f4", "<i8"
  std::vector<int64_t> shape;
  std::vector<char> data;
};

// Throws std::runtime_error naming the file.
NpyArray ReadNpy(const std::string& path);
void WriteNpy(const std::string& path, const NpyArray& array);

// "float32" as .npy files call it: "<f4". Throws std::runtime_error for types without a name there.
std::string NpyType(const std::string& dtype);
