// SPDX-License-Identifier: Apache-2.0
#include "profiler.h"

#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

#include <atomic>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "boundary.h"
#include "clock_sync.h"
#include "device.h"
#include "json.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

std::atomic<bool> profiling{false};
// Serialises start and stop. Never destroyed, like everything a thread may still use at exit.
std::mutex& Mutex() {
  static auto* mutex = new std::mutex();
  return *mutex;
}
std::map<Device*, ClockReading>& StartReadings() {
  static auto* readings = new std::map<Device*, ClockReading>();
  return *readings;
}

std::vector<Device*> OpenDevices() {
  std::vector<Device*> open;
  for (Device* device : Devices()) {
    if (device->is_open()) open.push_back(device);
  }
  return open;
}

void Start() {
  std::lock_guard<std::mutex> lock(Mutex());
  if (profiling) TVM_FFI_THROW(RuntimeError) << "OpenCL profiling is already on";
  OpenDevice(0);
  StartReadings().clear();
  for (Device* device : OpenDevices()) StartReadings()[device] = ReadClock(*device);
  profiling = true;  // from here on, new streams record by themselves
  for (Device* device : OpenDevices()) {
    device->ForEachStream([](Stream& stream) { stream.StartRecording(); });
  }
}

int64_t ProfilingTime(const Record& record, cl_uint what, const Device& device) {
  cl_ulong time = 0;
  const cl_int code = CL().clGetEventProfilingInfo(record.event, what, sizeof(time), &time, nullptr);
  if (code != kClSuccess) {
    ThrowCallError(code, {"clGetEventProfilingInfo", device.name(), *record.name});
  }
  return static_cast<int64_t>(time);
}

JsonObject Describe(const Record& record, const Stream& stream, const ClockMap& clock) {
  const Device& device = stream.device();
  const auto host_time = [&](cl_uint what) {
    return clock.ToHost(ProfilingTime(record, what, device));
  };
  return JsonObject()
      .Add("name", *record.name)
      .Add("bytes", static_cast<int64_t>(record.bytes))
      .Add("queued_ns", host_time(kClProfilingCommandQueued))
      .Add("submit_ns", host_time(kClProfilingCommandSubmit))
      .Add("start_ns", host_time(kClProfilingCommandStart))
      .Add("end_ns", host_time(kClProfilingCommandEnd))
      .Add("device", static_cast<int64_t>(device.index()))
      .Add("stream", static_cast<int64_t>(stream.id()))
      .Add("clock_error_ns", clock.error_ns());
}

void StopDevice(Device& device, JsonList* list) {
  std::vector<std::pair<Stream*, std::vector<Record>>> streams;
  device.ForEachStream(
      [&](Stream& stream) { streams.emplace_back(&stream, stream.StopRecording()); });
  const ClockReading last = ReadClock(device);
  const auto first = StartReadings().find(&device);
  const ClockMap clock(first != StartReadings().end() ? first->second : last, last);
  for (const auto& [stream, records] : streams) {
    for (const Record& record : records) list->Add(Describe(record, *stream, clock));
    for (const Record& record : records) CL().clReleaseEvent(record.event);
  }
}

tvm::ffi::String Stop() {
  std::lock_guard<std::mutex> lock(Mutex());
  if (!profiling) TVM_FFI_THROW(RuntimeError) << "OpenCL profiling is not on";
  profiling = false;
  JsonList list;
  for (Device* device : OpenDevices()) StopDevice(*device, &list);
  return list.Text();
}

TVM_FFI_STATIC_INIT_BLOCK() {
  DefineGlobals()
      .def("syncnas.opencl.profile_start", Start)
      .def("syncnas.opencl.profile_stop", Stop);
}

}  // namespace

bool Profiling() { return profiling.load(std::memory_order_relaxed); }

}  // namespace syncnas::opencl
