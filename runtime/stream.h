// SPDX-License-Identifier: Apache-2.0
//
// One in-order queue of work on a device. A TVM stream handle is a pointer to one of these.
//
// In-order is what makes the rest of the runtime simple: a buffer may be reused as soon as its last
// use has been *enqueued*, and a read needs to wait for nothing but one event: its own, or that of the
// last command that used the buffer. Commands are numbered from 1; when one has ended, all before it
// have.
#pragma once

#include <cstdint>
#include <deque>
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
  // failure. `number` is the command's, for the marks of the buffers it uses. A command that takes no
  // time (an unmap) leaves a stream that was known to be idle so.
  template <typename Enqueue>
  cl_int SubmitNumbered(const std::string* name, size_t bytes, Enqueue&& enqueue, uint64_t* number,
                        bool takes_time = true) {
    std::lock_guard<std::mutex> lock(mutex_);
    const uint64_t work = last_work_;
    const cl_int code = EnqueueLocked(name, bytes, enqueue, nullptr);
    if (!takes_time) last_work_ = work;
    *number = submitted_;
    return code;
  }

  // The same; with `pending`, the command's event is handed out and owned by the caller.
  template <typename Enqueue>
  cl_int Submit(const std::string* name, size_t bytes, Enqueue&& enqueue,
                Pending* pending = nullptr) {
    std::lock_guard<std::mutex> lock(mutex_);
    return EnqueueLocked(name, bytes, enqueue, pending);
  }

  // Submits and blocks until the command, and with it everything before it, has ended. The wait
  // happens outside the lock: other threads go on enqueuing.
  template <typename Enqueue>
  cl_int SubmitAndWait(const std::string* name, size_t bytes, Enqueue&& enqueue) {
    Pending pending;
    const cl_int code = Submit(name, bytes, std::forward<Enqueue>(enqueue), &pending);
    return code == kClSuccess ? Wait(pending) : code;
  }

  // The number of the last command so far; and that command, to be given to Wait.
  uint64_t Submitted();
  cl_int Mark(Pending* mark);

  // Blocks until the command has ended, without going to sleep at once, and lets go of it.
  cl_int Wait(const Pending& pending);

  // Blocks until command `number` has ended, and does not go to sleep at once. HasEnded asks whether
  // it has, and may say no too often. Both are for devices that share memory with the host.
  cl_int WaitUntilEnded(uint64_t number);
  bool HasEnded(uint64_t number);

  // Whether commands are being recorded: what the host does itself would be missing.
  bool Recording();

  // Whether nothing is queued or running, as far as is known without asking the driver: true only
  // if the last thing that happened here, unmapping apart, was a wait.
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
  // With `pending` the event goes there, owned.
  template <typename Enqueue>
  cl_int EnqueueLocked(const std::string* name, size_t bytes, Enqueue&& enqueue, Pending* pending) {
    cl_event event = nullptr;
    const bool owned = recording_ || pending != nullptr;
    const cl_int code = enqueue(queue_, owned || keeps_events_ ? &event : nullptr);
    if (code != kClSuccess) return code;
    last_command_ = name;
    last_work_ = ++submitted_;
    if (keeps_events_) KeepEvent(event, owned);
    if (recording_) records_.push_back(Keep(name, bytes, event, pending != nullptr));
    if (pending != nullptr) *pending = {event, submitted_};
    // Without a flush a driver may sit on the command until somebody waits for it, and the lanes
    // would not overlap.
    return CL().clFlush(queue_);
  }

  static Record Keep(const std::string* name, size_t bytes, cl_event event, bool shared);
  // Remembers the event of the command with the number submitted_; `shared` says that somebody else
  // owns it too.
  void KeepEvent(cl_event event, bool shared);
  // For a number above ended_: the oldest kept command that ends no earlier, with a reference.
  Pending KeptFrom(uint64_t number);
  void NoteEnded(uint64_t number);
  void ReplaceQueue(cl_bitfield properties);
  // What to blame when a wait fails: errors of asynchronous commands surface there.
  std::string LastCommand() const;

  Device& device_;
  const uint64_t id_;
  const bool keeps_events_;  // where the device shares memory: there the host waits without commands
  std::mutex mutex_;
  cl_command_queue queue_ = nullptr;
  bool recording_ = false;
  std::vector<Record> records_;
  std::deque<Pending> kept_;  // the last commands that are not known to have ended, in order
  const std::string* last_command_ = nullptr;
  uint64_t submitted_ = 0;  // commands so far
  uint64_t last_work_ = 0;  // the last one of them that takes time
  uint64_t ended_ = 0;      // how many of them are known to have ended
};

}  // namespace syncnas::opencl
