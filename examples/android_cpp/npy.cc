// SPDX-License-Identifier: Apache-2.0
#include "npy.h"

#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>

namespace {

constexpr size_t kMagicBytes = 6;
constexpr const char* kMagic = "\x93NUMPY";

[[noreturn]] void Refuse(const std::string& path, const std::string& why) {
  throw std::runtime_error(path + ": " + why);
}

// The text after 'NAME': in the header, a Python dictionary.
std::string Entry(const std::string& header, const std::string& name) {
  const size_t at = header.find("'" + name + "':");
  return at == std::string::npos ? "" : header.substr(at + name.size() + 3);
}

std::vector<int64_t> Shape(const std::string& text) {
  std::vector<int64_t> shape;
  for (size_t at = text.find('(') + 1; at < text.size() && text[at] != ')';) {
    if (!std::isdigit(static_cast<unsigned char>(text[at]))) {
      ++at;
      continue;
    }
    size_t used = 0;
    shape.push_back(std::stoll(text.substr(at, 18), &used));
    at += used;
  }
  return shape;
}

}  // namespace

NpyArray ReadNpy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) Refuse(path, "cannot be read");
  const std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (all.size() < 12 || all.compare(0, kMagicBytes, kMagic) != 0) Refuse(path, "is no .npy file");
  // Version 1 has a 16-bit length of the header, later ones a 32-bit one.
  const size_t length_bytes = all[6] == 1 ? 2 : 4;
  size_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) {
    length |= static_cast<size_t>(static_cast<unsigned char>(all[8 + i])) << (8 * i);
  }
  const size_t begin = 8 + length_bytes;
  if (begin + length > all.size()) Refuse(path, "is cut off");
  const std::string header = all.substr(begin, length);
  if (Entry(header, "fortran_order").find("True") < 3) Refuse(path, "is column-major; save it row-major");
  NpyArray array;
  const std::string type = Entry(header, "descr");
  const size_t quote = type.find('\'');
  if (quote == std::string::npos) Refuse(path, "holds no plain numbers");
  array.type = type.substr(quote + 1, type.find('\'', quote + 1) - quote - 1);
  array.shape = Shape(Entry(header, "shape"));
  array.data.assign(all.begin() + static_cast<std::ptrdiff_t>(begin + length), all.end());
  return array;
}

void WriteNpy(const std::string& path, const NpyArray& array) {
  std::string header = "{'descr': '" + array.type + "', 'fortran_order': False, 'shape': (";
  for (int64_t extent : array.shape) header += std::to_string(extent) + ", ";
  header += "), }";
  // Data begins at a multiple of 64; the header ends with a line break.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file.write(kMagic, kMagicBytes);
  const char version_and_length[] = {1, 0, static_cast<char>(header.size() & 0xff),
                                     static_cast<char>(header.size() >> 8)};
  file.write(version_and_length, sizeof(version_and_length));
  file << header;
  file.write(array.data.data(), static_cast<std::streamsize>(array.data.size()));
  file.flush();
  if (!file) Refuse(path, "cannot be written; is there room?");
}

std::string NpyType(const std::string& dtype) {
  static const std::map<std::string, std::string> names = {
      {"float32", "<f4"}, {"float16", "<f2"}, {"float64", "<f8"}, {"int64", "<i8"},
      {"int32", "<i4"},   {"int8", "|i1"},    {"uint8", "|u1"},   {"bool", "|b1"}};
  const auto found = names.find(dtype);
  if (found == names.end()) throw std::runtime_error("no .npy type for " + dtype);
  return found->second;
}
