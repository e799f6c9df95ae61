// SPDX-License-Identifier: Apache-2.0
#include "kernel_source.h"

#include <algorithm>
#include <utility>

namespace syncnas::opencl {

namespace {

// TVM's code generator puts this line before each kernel's source...
const char kSeparator[] = "// Function: ";
// ... and begins it with a declaration of every kernel of the module, each on a line.
const char kDeclaration[] = "__kernel void ";

std::string WithoutDeclarations(const std::string& source) {
  std::string kept;
  for (size_t begin = 0; begin < source.size();) {
    const size_t end = std::min(source.find('\n', begin), source.size() - 1) + 1;
    const bool declares = source.compare(begin, sizeof(kDeclaration) - 1, kDeclaration) == 0 &&
                          source.compare(std::max(end, begin + 3) - 3, 3, ");\n") == 0;
    if (!declares) kept.append(source, begin, end - begin);
    begin = end;
  }
  return kept;
}

}  // namespace

std::map<std::string, std::string> SplitByKernel(const std::string& code) {
  std::map<std::string, std::string> sources;
  size_t begin = code.find(kSeparator);
  while (begin != std::string::npos) {
    const size_t name = begin + sizeof(kSeparator) - 1;
    const size_t line_end = std::min(code.find('\n', name), code.size());
    const size_t next = std::min(code.find(kSeparator, line_end), code.size());
    sources[code.substr(name, line_end - name)] =
        WithoutDeclarations(code.substr(line_end, next - line_end));
    begin = next == code.size() ? std::string::npos : next;
  }
  return sources;
}

std::string Renamed(std::string source, const std::string& from, const std::string& to) {
  const size_t at = source.find(" " + from + "(");
  if (at != std::string::npos) source.replace(at + 1, from.size(), to);
  return source;
}

}  // namespace syncnas::opencl
