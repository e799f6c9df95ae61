// SPDX-License-Identifier: Apache-2.0
//
// Kernel launches: enqueued at once, or recorded to be enqueued many times with the same arguments.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernel_signature.h"
#include "opencl_types.h"

namespace syncnas::opencl {

class Buffer;
class Stream;

// Throws what the driver says of the kernel's work groups where it refuses the launch. Returns the
// command's number in the stream.
uint64_t EnqueueKernel(Stream& stream, cl_kernel kernel, const std::string* name,
                       const LaunchShape& shape);

// A launch whose arguments are set, in a kernel object of its own. `name` is an interned string.
class Launch {
 public:
  Launch(cl_kernel kernel, const std::string* name, LaunchShape shape, std::vector<Buffer*> buffers)
      : kernel_(kernel), name_(name), shape_(shape), buffers_(std::move(buffers)) {}
  ~Launch();
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

  void Enqueue(Stream& stream) const;
  const std::vector<Buffer*>& buffers() const { return buffers_; }

 private:
  const cl_kernel kernel_;  // owned
  const std::string* const name_;
  const LaunchShape shape_;
  const std::vector<Buffer*> buffers_;
};

// While there is one, this thread's launches are recorded instead of being enqueued.
class LaunchRecorder {
 public:
  LaunchRecorder();
  ~LaunchRecorder();
  LaunchRecorder(const LaunchRecorder&) = delete;
  LaunchRecorder& operator=(const LaunchRecorder&) = delete;

  // This thread's; null where there is none.
  static LaunchRecorder* Current();

  std::vector<std::unique_ptr<Launch>> launches;
};

}  // namespace syncnas::opencl
