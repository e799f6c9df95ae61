// SPDX-License-Identifier: Apache-2.0
#include "stream.h"

#include <algorithm>
#include <chrono>
#include <unordered_set>
#include <utility>

#include "device.h"
#include "opencl_error.h"
#include "profiler.h"

namespace syncnas::opencl {

const std::string* Intern(const std::string& text) {
  static auto* mutex = new std::mutex();
  static auto* texts = new std::unordered_set<std::string>();
  std::lock_guard<std::mutex> lock(*mutex);
  return &*texts->insert(text).first;
}

Stream::Stream(Device& device, uint64_t id) : device_(device), id_(id) {
  recording_ = Profiling();
  ReplaceQueue(recording_ ? kClQueueProfilingEnable : 0);
}

Stream::~Stream() {
  if (ShuttingDown()) return;
  for (const Record& record : records_) CL().clReleaseEvent(record.event);
  if (last_event_ != nullptr) CL().clReleaseEvent(last_event_);
  CL().clReleaseCommandQueue(queue_);
}

Record Stream::Keep(const std::string* name, size_t bytes, cl_event event, bool shared) {
  if (shared) CL().clRetainEvent(event);
  return {name, bytes, event};
}

void Stream::ReplaceQueue(cl_bitfield properties) {
  cl_int code = kClSuccess;
  cl_command_queue queue =
      CL().clCreateCommandQueue(device_.context(), device_.id(), properties, &code);
  Check(code, "clCreateCommandQueue", device_.name());
  if (queue_ != nullptr) CL().clReleaseCommandQueue(queue_);
  queue_ = queue;
}

std::string Stream::LastCommand() const {
  return last_command_ == nullptr ? "" : *last_command_;
}

void Stream::Finish() {
  // The wait happens outside the lock, so that other threads can go on enqueuing; the reference
  // keeps the queue alive if the profiler swaps it meanwhile.
  std::unique_lock<std::mutex> lock(mutex_);
  cl_command_queue queue = queue_;
  const std::string last = LastCommand();
  const uint64_t submitted = submitted_;
  Check(CL().clRetainCommandQueue(queue), "clRetainCommandQueue", device_.name());
  lock.unlock();
  const cl_int code = CL().clFinish(queue);
  CL().clReleaseCommandQueue(queue);
  if (code != kClSuccess) {
    ThrowCallError(code, {"clFinish", device_.name(), last, "a command failed; this is the last one"});
  }
  lock.lock();
  ended_ = std::max(ended_, submitted);
}

cl_int Stream::WaitFor(const Pending& pending) {
  const cl_int code = CL().clWaitForEvents(1, &pending.event);
  CL().clReleaseEvent(pending.event);
  if (code == kClSuccess) {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = std::max(ended_, pending.number);
  }
  return code;
}

bool Stream::KeepsLast() const { return device_.shares_memory(); }

void Stream::KeepLast(cl_event event, bool take) {
  if (!take) CL().clRetainEvent(event);
  if (last_event_ != nullptr) CL().clReleaseEvent(last_event_);
  last_event_ = event;
}

bool Stream::Recording() {
  std::lock_guard<std::mutex> lock(mutex_);
  return recording_;
}

namespace {

// How long a thread looks at an event before it goes to sleep: waking up takes tens of microseconds,
// and the lanes of a split plan end at about the same time.
constexpr std::chrono::microseconds kSpin{100};

void Spin(cl_event event) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  cl_int status = 1;
  do {
    const cl_int code = CL().clGetEventInfo(event, kClEventCommandExecutionStatus, sizeof(status),
                                            &status, nullptr);
    if (code != kClSuccess) return;
  } while (status > kClComplete && std::chrono::steady_clock::now() < deadline);
}

}  // namespace

cl_int Stream::WaitForLast() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (ended_ == submitted_) return kClSuccess;
  const Pending last{last_event_, submitted_};
  CL().clRetainEvent(last.event);
  lock.unlock();
  return Wait(last);
}

cl_int Stream::Wait(const Pending& pending) {
  Spin(pending.event);
  return WaitFor(pending);
}

cl_int Stream::Mark(Pending* mark) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (KeepsLast() && last_event_ != nullptr) {
    CL().clRetainEvent(last_event_);
    *mark = {last_event_, submitted_};
    return kClSuccess;
  }
  const cl_int code = CL().clEnqueueMarkerWithWaitList(queue_, 0, nullptr, &mark->event);
  if (code != kClSuccess) return code;
  mark->number = submitted_;
  return CL().clFlush(queue_);
}

bool Stream::KnownIdle() {
  std::lock_guard<std::mutex> lock(mutex_);
  return ended_ == submitted_;
}

void Stream::WaitFor(Stream& other) {
  if (this == &other) return;
  if (&device_ != &other.device_) {
    other.Finish();  // events do not cross contexts
    return;
  }
  cl_event marker = nullptr;
  {
    std::lock_guard<std::mutex> lock(other.mutex_);
    Check(CL().clEnqueueMarkerWithWaitList(other.queue_, 0, nullptr, &marker),
          "clEnqueueMarkerWithWaitList", device_.name());
    CL().clFlush(other.queue_);
  }
  cl_int code = kClSuccess;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    cl_event barrier = nullptr;
    code = CL().clEnqueueBarrierWithWaitList(queue_, 1, &marker, KeepsLast() ? &barrier : nullptr);
    if (code == kClSuccess && KeepsLast()) {
      ++submitted_;  // not idle until the other stream has got here
      KeepLast(barrier, true);
    }
  }
  CL().clReleaseEvent(marker);
  Check(code, "clEnqueueBarrierWithWaitList", device_.name());
}

void Stream::StartRecording() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (recording_) return;
  Check(CL().clFinish(queue_), "clFinish", device_.name());
  ReplaceQueue(kClQueueProfilingEnable);
  recording_ = true;
}

std::vector<Record> Stream::StopRecording() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Record> records = std::move(records_);
  records_.clear();
  if (!recording_) return records;
  recording_ = false;
  Check(CL().clFinish(queue_), "clFinish", device_.name());
  ReplaceQueue(0);
  return records;
}

}  // namespace syncnas::opencl
