// SPDX-License-Identifier: Apache-2.0
//
// A model as the list of calls that one run of it makes.
#pragma once

#include <tvm/ffi/any.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

#include <string>
#include <vector>

#include "../rows.h"

namespace syncnas::runner {

// Bytes that values are kept in. Values share one where the one is a view of the other, or the other
// lane's sight of it on a device that shares its memory with the host.
struct Memory {
  size_t bytes = 0;
  bool host = false;    // the CPU lane touches it
  bool device = false;  // the GPU lane touches it
};

struct Value {
  int memory = -1;
  bool on_device = false;
  DLDataType dtype{};
  std::vector<int64_t> shape;
};

// What a call is given: a value of the run, or something that stays (a weight, a number).
struct Operand {
  int value = -1;
  tvm::ffi::Any fixed;
  bool written = false;
};

// kWrite and kRead are commands that copy to and from the device. In shared memory, kHandOver is a
// transfer: nothing to do, but worth noting; and kCopyRows, done by the host, what copies rows.
enum class StepKind { kCpuKernel, kGpuKernel, kWrite, kRead, kHandOver, kCopyRows };

// Kernels of the GPU, writes and reads are handed to its queue, which works them off in order.
struct Step {
  StepKind kind = StepKind::kCpuKernel;
  std::string name, region;
  tvm::ffi::Function function;    // of kernels
  std::vector<Operand> operands;  // of transfers: source and destination
  opencl::Rows rows;              // of transfers: what is moved, if not all
  // Before the step: wait until the queue has got through that step. -1: for nothing.
  int wait_for = -1;
  bool waited_for = false;

  bool by_host() const { return kind == StepKind::kCpuKernel || kind == StepKind::kCopyRows; }
  bool queued() const { return !by_host() && kind != StepKind::kHandOver; }
};

struct Steps {
  std::vector<Memory> memories;
  std::vector<Value> values;
  std::vector<Step> steps;
  std::vector<int> inputs;  // values, on the host
  std::vector<Operand> outputs;
  int wait_at_end = -1;  // as Step::wait_for
};

}  // namespace syncnas::runner
