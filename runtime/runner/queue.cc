// SPDX-License-Identifier: Apache-2.0
#include "queue.h"

#include "../device.h"
#include "../opencl_error.h"

namespace syncnas::runner {

opencl::Stream& Queue() { return opencl::OpenDevice(0).CurrentStream(); }

void CheckQueue(opencl::cl_int code, const char* call, const Step& step) {
  if (code == opencl::kClSuccess) return;
  opencl::ThrowCallError(code, {call, opencl::OpenDevice(0).name(), step.name,
                                step.region.empty() ? "" : "in " + step.region});
}

}  // namespace syncnas::runner
