// SPDX-License-Identifier: Apache-2.0
//
// Relates a device's profiling clock to the host's CLOCK_MONOTONIC (std::chrono::steady_clock, and
// Python's time.perf_counter_ns), so that both lanes can be drawn on one time axis.
#pragma once

#include <cstdint>

namespace syncnas::opencl {

class Device;

// Nanoseconds on the host's monotonic clock.
int64_t HostNow();

// At `device_ns` on the device's clock the host's clock shows device_ns + offset_ns, give or take
// error_ns.
struct ClockReading {
  int64_t device_ns = 0;
  int64_t offset_ns = 0;
  int64_t error_ns = 0;
};

// Measures with a few tiny commands on a queue of their own. Each is bracketed by two readings of
// the host's clock, which bounds the offset from both sides; the bounds of all rounds together are
// much tighter than any one of them.
ClockReading ReadClock(Device& device);

// The two clocks may run at slightly different speeds: between two readings the offset is
// interpolated.
class ClockMap {
 public:
  ClockMap(ClockReading first, ClockReading last) : first_(first), last_(last) {}
  int64_t ToHost(int64_t device_ns) const;
  int64_t error_ns() const;

 private:
  ClockReading first_;
  ClockReading last_;
};

}  // namespace syncnas::opencl
