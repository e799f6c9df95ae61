// SPDX-License-Identifier: Apache-2.0
//
// One way to report a failing OpenCL call: its symbolic name, the call, the kernel, the device.
#pragma once

#include <string>

#include "opencl_types.h"

namespace syncnas::opencl {

// "CL_INVALID_WORK_GROUP_SIZE (-54)"; unknown codes keep their number.
std::string ErrorName(cl_int code);

// True for the codes that drivers use when memory runs out.
bool IsOutOfMemory(cl_int code);

struct CallSite {
  const char* call;              // the OpenCL function, for example "clEnqueueReadBuffer"
  const std::string& device;     // the device's name
  const std::string kernel = {};  // empty when no kernel is involved
  const std::string detail = {};  // what else helps: sizes, a limit, the build log
};

[[noreturn]] void ThrowCallError(cl_int code, const CallSite& site);

inline void Check(cl_int code, const char* call, const std::string& device) {
  if (code != kClSuccess) ThrowCallError(code, {call, device});
}

}  // namespace syncnas::opencl
