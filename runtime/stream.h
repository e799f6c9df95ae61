// SPDX-License-Identifier: Apache-2.0
//
// One in-order queue of work on a device. A TVM stream handle is a pointer to one of these.
//
// In-order is what makes the rest of the runtime simple: a buffer may be reused as soon as its last
// use has been *enqueued*, and a read needs to wait for nothing but its own event.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "opencl_loader.h"

namespace syncnas::opencl {

class Device;

// A finished or running command that was enqueued while recording was on.
struct Record {
  const std::string* name;
  size_t bytes;
  cl_event event;  // owned
};

// A command that somebody wants to wait for.
struct Pending {
  cl_event event = nullptr;  // owned
  uint64_t number = 0;       // its place in the stream
};

// The same string for the same text, valid for the life of the process. Records and error messages
// can then refer to a kernel's name after its module is gone, at the cost of a pointer.
const std::string* Intern(const std::string& text);

class Stream {
 public:
  Stream(Device& device, uint64_t id);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device& device() const { return device_; }
  // Identifies the stream in buffers' usage marks; never 0, never reused.
  uint64_t id() const { return id_; }

  // Calls enqueue(queue, cl_event* or nullptr) -> cl_int under the stream's lock and hands the
  // command to the device at once. Returns enqueue's code: the caller knows what to say about a
  // failure. With `pending`, the command's event is handed out and owned by the caller.
  template <typename Enqueue>
  cl_int Submit(const std::string* name, size_t bytes, Enqueue&& enqueue,
                Pending* pending = nullptr) {
    std::lock_guard<std::mutex> lock(mutex_);
    cl_event event = nullptr;
    const bool owned = recording_ || pending != nullptr;
    const cl_int code = enqueue(queue_, owned || KeepsLast() ? &event : nullptr);
    if (code != kClSuccess) return code;
    last_command_ = name;
    ++submitted_;
    if (KeepsLast()) KeepLast(event, !owned);
    if (recording_) records_.push_back(Keep(name, bytes, event, pending != nullptr));
    if (pending != nullptr) *pending = {event, submitted_};
    // Without a flush a driver may sit on the command until somebody waits for it, and the lanes
    // would not overlap.
    return CL().clFlush(queue_);
  }

  // Submits and blocks until the command, and with it everything before it, has ended. The wait
  // happens outside the lock: other threads go on enqueuing.
  template <typename Enqueue>
  cl_int SubmitAndWait(const std::string* name, size_t bytes, Enqueue&& enqueue) {
    Pending pending;
    const cl_int code = Submit(name, bytes, std::forward<Enqueue>(enqueue), &pending);
    return code == kClSuccess ? WaitFor(pending) : code;
  }

  // Blocks until everything that was enqueued so far has ended, and does not go to sleep at once.
  // For devices that share memory with the host.
  cl_int WaitForLast();

  // The last command so far, to be given to Wait().
  cl_int Mark(Pending* mark);

  // Blocks until the command has ended, without going to sleep at once, and lets go of it.
  cl_int Wait(const Pending& pending);

  // Whether commands are being recorded: what the host does itself would be missing.
  bool Recording();

  // Whether nothing is queued or running, as far as is known without asking the driver: true only
  // if the last thing that happened here was a wait.
  bool KnownIdle();

  // Blocks until everything that was enqueued so far has ended.
  void Finish();

  // Makes commands that are enqueued here from now on wait for what is in `other` now.
  void WaitFor(Stream& other);

  // Recording needs a queue with profiling, which costs time on some GPUs, so it is swapped in.
  // Both wait until the stream is empty: the order of commands survives the swap.
  void StartRecording();
  std::vector<Record> StopRecording();

 private:
  static Record Keep(const std::string* name, size_t bytes, cl_event event, bool shared);
  cl_int WaitFor(const Pending& pending);
  bool KeepsLast() const;
  // Makes `event` the last one; `take` says that nobody else owns it.
  void KeepLast(cl_event event, bool take);
  void ReplaceQueue(cl_bitfield properties);
  // What to blame when a wait fails: errors of asynchronous commands surface there.
  std::string LastCommand() const;

  Device& device_;
  const uint64_t id_;
  std::mutex mutex_;
  cl_command_queue queue_ = nullptr;
  bool recording_ = false;
  std::vector<Record> records_;
  cl_event last_event_ = nullptr;  // owned; of the last command, where the device shares memory
  const std::string* last_command_ = nullptr;
  uint64_t submitted_ = 0;  // commands so far
  uint64_t ended_ = 0;      // how many of them are known to have ended
};

}  // namespace syncnas::opencl
