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

namespace {

// How long a thread looks at an event before it goes to sleep: waking up takes tens of microseconds,
// and the lanes of a split plan end at about the same time.
constexpr std::chrono::microseconds kSpin{100};

// False while the command is queued or running. Errors count as ended: a wait then reports them.
bool Ended(cl_event event) {
  cl_int status = kClComplete;
  const cl_int code = CL().clGetEventInfo(event, kClEventCommandExecutionStatus, sizeof(status),
                                          &status, nullptr);
  return code != kClSuccess || status <= kClComplete;
}

void Spin(cl_event event) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (!Ended(event) && std::chrono::steady_clock::now() < deadline) {
  }
}

}  // namespace

const std::string* Intern(const std::string& text) {
  static auto* mutex = new std::mutex();
  static auto* texts = new std::unordered_set<std::string>();
  std::lock_guard<std::mutex> lock(*mutex);
  return &*texts->insert(text).first;
}

Stream::Stream(Device& device, uint64_t id)
    : device_(device), id_(id), keeps_events_(device.shares_memory()) {
  recording_ = Profiling();
  ReplaceQueue(recording_ ? kClQueueProfilingEnable : 0);
}

Stream::~Stream() {
  if (ShuttingDown()) return;
  for (const Record& record : records_) CL().clReleaseEvent(record.event);
  for (const Pending& command : kept_) CL().clReleaseEvent(command.event);
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
  NoteEnded(submitted);
}

cl_int Stream::Wait(const Pending& pending) {
  Spin(pending.event);
  const cl_int code = CL().clWaitForEvents(1, &pending.event);
  CL().clReleaseEvent(pending.event);
  if (code == kClSuccess) {
    std::lock_guard<std::mutex> lock(mutex_);
    NoteEnded(pending.number);
  }
  return code;
}

void Stream::NoteEnded(uint64_t number) {
  ended_ = std::max(ended_, number);
  while (!kept_.empty() && kept_.front().number <= ended_) {
    CL().clReleaseEvent(kept_.front().event);
    kept_.pop_front();
  }
}

void Stream::KeepEvent(cl_event event, bool shared) {
  // Who waits for an older one waits for the oldest that is left: a little longer than needed.
  constexpr size_t kMostKept = 64;
  if (shared) CL().clRetainEvent(event);
  kept_.push_back({event, submitted_});
  if (kept_.size() <= kMostKept) return;
  CL().clReleaseEvent(kept_.front().event);
  kept_.pop_front();
}

Pending Stream::KeptFrom(uint64_t number) {
  // There is one: the last command is kept until it is known to have ended.
  const auto found = std::lower_bound(
      kept_.begin(), kept_.end(), number,
      [](const Pending& command, uint64_t wanted) { return command.number < wanted; });
  CL().clRetainEvent(found->event);
  return *found;
}

cl_int Stream::Mark(Pending* mark) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!kept_.empty()) {
    CL().clRetainEvent(kept_.back().event);
    *mark = kept_.back();
    return kClSuccess;
  }
  const cl_int code = CL().clEnqueueMarkerWithWaitList(queue_, 0, nullptr, &mark->event);
  if (code != kClSuccess) return code;
  mark->number = submitted_;
  return CL().clFlush(queue_);
}

uint64_t Stream::Submitted() {
  std::lock_guard<std::mutex> lock(mutex_);
  return submitted_;
}

bool Stream::Recording() {
  std::lock_guard<std::mutex> lock(mutex_);
  return recording_;
}

cl_int Stream::WaitUntilEnded(uint64_t number) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (number <= ended_) return kClSuccess;
  const Pending command = KeptFrom(number);
  lock.unlock();
  return Wait(command);
}

bool Stream::HasEnded(uint64_t number) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (number <= ended_) return true;
  const Pending command = KeptFrom(number);
  lock.unlock();
  if (Ended(command.event)) return Wait(command) == kClSuccess;  // asking alone orders nothing
  CL().clReleaseEvent(command.event);
  return false;
}

bool Stream::KnownIdle() {
  std::lock_guard<std::mutex> lock(mutex_);
  return ended_ >= last_work_;
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
    code =
        CL().clEnqueueBarrierWithWaitList(queue_, 1, &marker, keeps_events_ ? &barrier : nullptr);
    if (code == kClSuccess) {
      last_work_ = ++submitted_;  // not idle until the other stream has got here
      if (keeps_events_) KeepEvent(barrier, false);
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
