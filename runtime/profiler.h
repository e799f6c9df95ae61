// SPDX-License-Identifier: Apache-2.0
//
// Times of every kernel and copy, on the host's clock. Costs nothing while it is off.
//
// syncnas.opencl.profile_start()          -> None
// syncnas.opencl.profile_stop()           -> JSON list, in the order of enqueuing per stream:
//   {"name": kernel's name or "write"/"read"/"copy", "bytes", "queued_ns", "submit_ns", "start_ns",
//    "end_ns", "device", "stream", "clock_error_ns"}
#pragma once

namespace syncnas::opencl {

// Whether streams record what they are given.
bool Profiling();

}  // namespace syncnas::opencl
