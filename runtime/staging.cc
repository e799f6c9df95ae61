// SPDX-License-Identifier: Apache-2.0
#include "staging.h"

#include <utility>

#include "buffer_pool.h"
#include "device.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

std::unique_ptr<StagingPool::Block> StagingPool::Take(size_t bytes) {
  const size_t size = BufferPool::SizeClass(bytes);
  std::unique_lock<std::mutex> lock(mutex_);
  CollectFinished();
  while (in_flight_bytes_ + size > kMaxInFlight && !in_flight_.empty()) WaitForOldest(lock);
  for (auto& candidate : free_) {
    // Not more than twice too large, or small writes would take the large blocks away.
    if (candidate->capacity < size || candidate->capacity > 2 * size) continue;
    std::unique_ptr<Block> block = std::move(candidate);
    candidate = std::move(free_.back());
    free_.pop_back();
    free_bytes_ -= block->capacity;
    return block;
  }
  auto block = std::make_unique<Block>();
  block->data.reset(new char[size]);  // not make_unique: it would clear the memory
  block->capacity = size;
  return block;
}

void StagingPool::ReturnAfter(std::unique_ptr<Block> block, cl_event write) {
  std::lock_guard<std::mutex> lock(mutex_);
  block->busy = write;
  in_flight_bytes_ += block->capacity;
  in_flight_.push_back(std::move(block));
}

void StagingPool::CollectFinished() {
  // Oldest first, and only up to the first one that is still busy. With several streams a slow one
  // holds the others' blocks back, which costs memory (at most kMaxInFlight) but no time.
  while (!in_flight_.empty()) {
    cl_int status = kClComplete;
    CL().clGetEventInfo(in_flight_.front()->busy, kClEventCommandExecutionStatus, sizeof(status),
                        &status, nullptr);
    // A negative status is a failed write: it reads no more either. The error itself surfaces
    // where somebody waits for the stream.
    if (status > kClComplete) return;
    in_flight_bytes_ -= in_flight_.front()->capacity;
    AddFree(std::move(in_flight_.front()));
    in_flight_.pop_front();
  }
}

void StagingPool::WaitForOldest(std::unique_lock<std::mutex>& lock) {
  std::unique_ptr<Block> oldest = std::move(in_flight_.front());
  in_flight_.pop_front();
  in_flight_bytes_ -= oldest->capacity;
  lock.unlock();
  CL().clWaitForEvents(1, &oldest->busy);
  lock.lock();
  AddFree(std::move(oldest));
}

void StagingPool::AddFree(std::unique_ptr<Block> block) {
  CL().clReleaseEvent(block->busy);
  block->busy = nullptr;
  if (free_bytes_ + block->capacity > kMaxFree) return;  // dropped
  free_bytes_ += block->capacity;
  free_.push_back(std::move(block));
}

}  // namespace syncnas::opencl
