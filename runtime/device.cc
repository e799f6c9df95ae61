// SPDX-License-Identifier: Apache-2.0
#include "device.h"

#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "device_selection.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

std::atomic<bool> shutting_down{false};

// At exit the devices are drained while their driver is still intact: a worker thread that runs a
// kernel while static objects are destroyed is a crash. Everything else is left to the operating
// system, on purpose.
void DrainAtExit() {
  shutting_down = true;
  for (Device* device : ListDevices()) {
    if (!device->is_open()) continue;
    try {
      device->FinishAll();
    } catch (...) {  // nobody is left to tell
    }
  }
}

void RegisterDrainAtExit() {
  static const pid_t owner = getpid();
  // A forked child has the handler but not the driver's threads: it would wait forever.
  static const int registered = std::atexit([] {
    if (getpid() == owner) DrainAtExit();
  });
  static_cast<void>(registered);
}

}  // namespace

bool ShuttingDown() { return shutting_down.load(std::memory_order_relaxed); }

Device::Device(int index, cl_platform_id platform, cl_device_id id)
    : index_(index), platform_(platform), id_(id) {
  name_ = InfoString(kClDeviceName);
  type_ = Info<cl_bitfield>(kClDeviceType);
  limits_.max_allocation = Info<cl_ulong>(kClDeviceMaxMemAllocSize);
  limits_.global_memory = Info<cl_ulong>(kClDeviceGlobalMemSize);
  limits_.local_memory = Info<cl_ulong>(kClDeviceLocalMemSize);
  limits_.max_work_group_size = Info<size_t>(kClDeviceMaxWorkGroupSize);
  size_t bytes = 0;
  Check(CL().clGetDeviceInfo(id_, kClDeviceMaxWorkItemSizes, 0, nullptr, &bytes),
        "clGetDeviceInfo", name_);
  limits_.max_work_item_sizes.resize(bytes / sizeof(size_t));
  ReadInfo(kClDeviceMaxWorkItemSizes, bytes, limits_.max_work_item_sizes.data());
}

std::string Device::InfoString(cl_uint what) const {
  size_t bytes = 0;
  Check(CL().clGetDeviceInfo(id_, what, 0, nullptr, &bytes), "clGetDeviceInfo", name_);
  std::string value(bytes, '\0');
  ReadInfo(what, bytes, value.data());
  value.resize(std::min(value.find('\0'), value.size()));
  return value;
}

void Device::ReadInfo(cl_uint what, size_t bytes, void* value) const {
  Check(CL().clGetDeviceInfo(id_, what, bytes, value, nullptr), "clGetDeviceInfo", name_);
}

void Device::Open() {
  if (is_open()) return;
  std::lock_guard<std::mutex> lock(open_mutex_);
  if (is_open()) return;
  memory_ = ChooseMemory(id_, name_);
  if (context_ == nullptr) {
    cl_int code = kClSuccess;
    context_ = CL().clCreateContext(nullptr, 1, &id_, nullptr, nullptr, &code);
    Check(code, "clCreateContext", name_);
  }
  default_stream_ = CreateStream();
  RegisterDrainAtExit();
  open_.store(true, std::memory_order_release);
}

Stream& Device::CurrentStream() {
  auto* chosen = static_cast<Stream*>(TVMFFIEnvGetStream(kDLOpenCL, index_));
  return chosen != nullptr ? *chosen : *default_stream_;
}

Stream* Device::CreateStream() {
  static std::atomic<uint64_t> next_id{1};
  auto stream = std::make_shared<Stream>(*this, next_id++);
  std::lock_guard<std::mutex> lock(streams_mutex_);
  streams_.push_back(stream);
  return stream.get();
}

void Device::FreeStream(Stream* stream) {
  if (stream == nullptr || stream == default_stream_) return;
  // Its commands may still use buffers that are in the pool by now: end them first, then nobody
  // needs to know about this stream any more.
  stream->Finish();
  std::lock_guard<std::mutex> lock(streams_mutex_);
  streams_.erase(std::remove_if(streams_.begin(), streams_.end(),
                                [&](const auto& entry) { return entry.get() == stream; }),
                 streams_.end());
}

void Device::ForEachStream(const std::function<void(Stream&)>& visit) {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    std::lock_guard<std::mutex> lock(streams_mutex_);
    streams = streams_;
  }
  for (const auto& stream : streams) visit(*stream);
}

void Device::FinishAll() {
  ForEachStream([](Stream& stream) { stream.Finish(); });
}

namespace {

// What was found at first use. The reason for an empty or unusable list is kept, so that "exists?"
// can be answered without an exception and every other use with a full sentence.
struct Found {
  std::vector<Device*> devices;
  std::string problem;

  Found() {
    const std::vector<DeviceEntry> entries = EnumerateDevices(&problem);
    const char* wish = std::getenv("SYNCNAS_OPENCL_DEVICE");
    std::vector<DeviceEntry> order = OrderDevices(entries, wish ? wish : "", &problem);
    for (const DeviceEntry& entry : order) {
      devices.push_back(new Device(static_cast<int>(devices.size()), entry.platform, entry.id));
    }
  }
};

const Found& FindDevices() {
  static const Found* found = new Found();  // never freed: devices outlive everything else
  return *found;
}

}  // namespace

const std::vector<Device*>& ListDevices() { return FindDevices().devices; }

const std::vector<Device*>& Devices() {
  const Found& found = FindDevices();
  if (!found.problem.empty()) TVM_FFI_THROW(RuntimeError) << "OpenCL: " << found.problem;
  return found.devices;
}

int CountDevices() {
  try {
    return static_cast<int>(Devices().size());
  } catch (...) {
    return 0;
  }
}

Device& OpenDevice(int index) {
  const auto& devices = Devices();
  if (index < 0 || index >= static_cast<int>(devices.size())) {
    TVM_FFI_THROW(ValueError) << "OpenCL: there is no device " << index << "; this machine has "
                              << devices.size() << " (0 to " << devices.size() - 1 << ")";
  }
  devices[index]->Open();
  return *devices[index];
}

}  // namespace syncnas::opencl
