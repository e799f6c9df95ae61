// SPDX-License-Identifier: Apache-2.0
#include "clock_sync.h"

#include <algorithm>
#include <chrono>

#include "device.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

constexpr int kRounds = 24;

// Lower and upper bound of (host time - device time).
struct Bounds {
  int64_t low = INT64_MIN;
  int64_t high = INT64_MAX;

  bool Consistent() const { return low <= high; }
  Bounds Intersect(const Bounds& other) const {
    return {std::max(low, other.low), std::min(high, other.high)};
  }
  // Bounds that contradict each other (a clock that jumps) give way to the narrower ones.
  Bounds Combine(const Bounds& other) const {
    const Bounds both = Intersect(other);
    if (both.Consistent()) return both;
    return high - low <= other.high - other.low ? *this : other;
  }
};

int64_t EventTime(cl_event event, cl_uint what) {
  cl_ulong time = 0;
  const cl_int code = CL().clGetEventProfilingInfo(event, what, sizeof(time), &time, nullptr);
  return code == kClSuccess ? static_cast<int64_t>(time) : 0;
}

// A queue and a buffer for the probes, released in every case.
struct Probe {
  Device& device;
  cl_command_queue queue = nullptr;
  cl_mem memory = nullptr;

  explicit Probe(Device& device) : device(device) {
    cl_int code = kClSuccess;
    queue = CL().clCreateCommandQueue(device.context(), device.id(), kClQueueProfilingEnable, &code);
    Check(code, "clCreateCommandQueue", device.name());
    memory = CL().clCreateBuffer(device.context(), kClMemReadWrite, sizeof(cl_int), nullptr, &code);
    if (code != kClSuccess) CL().clReleaseCommandQueue(queue);
    Check(code, "clCreateBuffer", device.name());
  }
  ~Probe() {
    CL().clReleaseMemObject(memory);
    CL().clReleaseCommandQueue(queue);
  }

  // One probe; returns its bounds and, through device_ns, when it ended on the device's clock.
  Bounds Round(int64_t* device_ns) {
    const cl_int zero = 0;
    cl_event event = nullptr;
    const int64_t before = HostNow();
    Check(CL().clEnqueueWriteBuffer(queue, memory, kClFalse, 0, sizeof(zero), &zero, 0, nullptr,
                                    &event),
          "clEnqueueWriteBuffer", device.name());
    const int64_t enqueued = HostNow();
    const cl_int code = CL().clWaitForEvents(1, &event);
    const int64_t after = HostNow();
    const int64_t queued = EventTime(event, kClProfilingCommandQueued);
    const int64_t start = EventTime(event, kClProfilingCommandStart);
    const int64_t end = EventTime(event, kClProfilingCommandEnd);
    CL().clReleaseEvent(event);
    Check(code, "clWaitForEvents", device.name());
    *device_ns = end;
    const Bounds running{before - start, after - end};
    // The enqueuing call stamps QUEUED itself, which is far tighter, if the driver takes that stamp
    // from the same clock as the others; bounds that do not fit say that it does not.
    const Bounds queueing{before - queued, enqueued - queued};
    const Bounds both = running.Intersect(queueing);
    return queued != 0 && both.Consistent() ? both : running;
  }
};

}  // namespace

int64_t HostNow() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

ClockReading ReadClock(Device& device) {
  Probe probe(device);
  Bounds bounds;
  int64_t device_ns = 0;
  probe.Round(&device_ns);  // the first command of a queue is slow
  for (int round = 0; round < kRounds; ++round) bounds = bounds.Combine(probe.Round(&device_ns));
  const int64_t half_width = (bounds.high - bounds.low) / 2;
  return {device_ns, bounds.low + half_width, half_width};
}

int64_t ClockMap::ToHost(int64_t device_ns) const {
  const int64_t span = last_.device_ns - first_.device_ns;
  if (span <= 0) return device_ns + last_.offset_ns;
  const double progress =
      std::clamp(static_cast<double>(device_ns - first_.device_ns) / static_cast<double>(span), 0.0, 1.0);
  const auto drift = static_cast<double>(last_.offset_ns - first_.offset_ns);
  return device_ns + first_.offset_ns + static_cast<int64_t>(drift * progress);
}

int64_t ClockMap::error_ns() const { return std::max(first_.error_ns, last_.error_ns); }

}  // namespace syncnas::opencl
