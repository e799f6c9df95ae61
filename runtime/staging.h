// SPDX-License-Identifier: Apache-2.0
//
// Host memory that a write reads from after the caller has gone on.
//
// TVM lets the source of a copy change or disappear as soon as the copy returns. Waiting until the
// device has read it would mean waiting for every kernel queued before the write. So the data is
// copied aside first (a few microseconds for an activation), the write is enqueued without
// blocking, and the block is taken back when the write's event says so.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "opencl_types.h"

namespace syncnas::opencl {

class Device;

class StagingPool {
 public:
  // Nothing larger is copied aside.
  static constexpr size_t kLargestBlock = size_t{16} << 20;

  struct Block {
    std::unique_ptr<char[]> data;
    size_t capacity = 0;
    cl_event busy = nullptr;
  };

  explicit StagingPool(Device& device) : device_(device) {}

  // A block for at least `bytes` (at most kLargestBlock). Waits for the oldest write when too much
  // is in flight.
  std::unique_ptr<Block> Take(size_t bytes);
  // The block is reused once the write has ended; takes over the event.
  void ReturnAfter(std::unique_ptr<Block> block, cl_event write);

 private:
  static constexpr size_t kMaxInFlight = size_t{64} << 20;
  static constexpr size_t kMaxFree = size_t{16} << 20;

  void CollectFinished();
  void WaitForOldest(std::unique_lock<std::mutex>& lock);
  void AddFree(std::unique_ptr<Block> block);

  Device& device_;
  std::mutex mutex_;
  std::deque<std::unique_ptr<Block>> in_flight_;
  std::vector<std::unique_ptr<Block>> free_;
  size_t in_flight_bytes_ = 0;
  size_t free_bytes_ = 0;
};

}  // namespace syncnas::opencl
