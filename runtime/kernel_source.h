// SPDX-License-Identifier: Apache-2.0
//
// OpenCL C source as TVM's code generator writes it: taken apart kernel by kernel.
#pragma once

#include <map>
#include <string>

namespace syncnas::opencl {

// Every kernel's own source by its name. Empty where the code does not say where kernels begin.
std::map<std::string, std::string> SplitByKernel(const std::string& code);

// The source of one kernel with the kernel called `to` instead of `from`.
std::string Renamed(std::string source, const std::string& from, const std::string& to);

}  // namespace syncnas::opencl
