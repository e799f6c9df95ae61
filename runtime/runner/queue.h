// SPDX-License-Identifier: Apache-2.0
//
// The GPU lane's queue, and errors of its calls.
#pragma once

#include "../stream.h"
#include "steps.h"

namespace syncnas::runner {

opencl::Stream& Queue();

// Throws where an OpenCL call for `step` gave something other than success.
void CheckQueue(opencl::cl_int code, const char* call, const Step& step);

}  // namespace syncnas::runner
