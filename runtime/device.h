// SPDX-License-Identifier: Apache-2.0
//
// The OpenCL devices of this machine, in the order in which TVM numbers them.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "buffer_pool.h"
#include "memory_kind.h"
#include "opencl_types.h"
#include "staging.h"
#include "stream.h"

namespace syncnas::opencl {

struct DeviceLimits {
  size_t max_allocation = 0;
  size_t global_memory = 0;
  size_t local_memory = 0;
  size_t max_work_group_size = 0;
  std::vector<size_t> max_work_item_sizes;
};

class Device {
 public:
  // `index` is the TVM device id.
  Device(int index, cl_platform_id platform, cl_device_id id);

  int index() const { return index_; }
  cl_device_id id() const { return id_; }
  cl_platform_id platform() const { return platform_; }
  const std::string& name() const { return name_; }
  cl_bitfield type() const { return type_; }
  const DeviceLimits& limits() const { return limits_; }
  bool is_open() const { return open_.load(std::memory_order_acquire); }

  // A context and the default stream are made on first use: merely listing devices, or asking
  // whether there is one, must not wake up a driver. Each device has a context of its own, so one
  // that fails does not take the others along.
  void Open();
  cl_context context() const { return context_; }
  // How tensors get to the device's buffers and back; chosen when the device is opened.
  MemoryKind memory() const { return memory_; }
  bool shares_memory() const { return memory_ == MemoryKind::kShared; }
  BufferPool& buffers() { return buffers_; }
  StagingPool& staging() { return staging_; }

  // The calling thread's stream for this device: what SetStream chose, else the default one.
  Stream& CurrentStream();
  Stream* CreateStream();
  void FreeStream(Stream* stream);
  void ForEachStream(const std::function<void(Stream&)>& visit);
  void FinishAll();

  std::string InfoString(cl_uint what) const;
  template <typename T>
  T Info(cl_uint what) const {
    T value{};
    ReadInfo(what, sizeof(value), &value);
    return value;
  }

 private:
  void ReadInfo(cl_uint what, size_t bytes, void* value) const;

  const int index_;
  const cl_platform_id platform_;
  const cl_device_id id_;
  std::string name_;
  cl_bitfield type_ = 0;
  DeviceLimits limits_;

  std::mutex open_mutex_;
  std::atomic<bool> open_{false};
  cl_context context_ = nullptr;
  MemoryKind memory_ = MemoryKind::kCopied;
  Stream* default_stream_ = nullptr;  // the first of streams_

  std::mutex streams_mutex_;
  std::vector<std::shared_ptr<Stream>> streams_;

  BufferPool buffers_{*this};
  StagingPool staging_{*this};
};

// All devices; throws a clear error when there are none or SYNCNAS_OPENCL_DEVICE names none of them.
const std::vector<Device*>& Devices();

// Like Devices(), but an empty list instead of an error about missing platforms or libraries, and
// the platforms' own order when SYNCNAS_OPENCL_DEVICE matches nothing: for listing what there is.
const std::vector<Device*>& ListDevices();

// How many devices TVM can use; 0 in every case in which Devices() throws.
int CountDevices();

// An open device; throws when there is none with this id.
Device& OpenDevice(int index);

// True once the process has begun to exit: drivers may be half torn down, so destructors that run
// after this point must not call them any more.
bool ShuttingDown();

}  // namespace syncnas::opencl
