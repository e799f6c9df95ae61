// SPDX-License-Identifier: Apache-2.0
//
// A model as the list of calls that one run of it makes.
#pragma once

#include <tvm/ffi/any.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>

#include <string>
#include <vector>

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

// kWrite and kRead are commands that copy to and from the device. kHandOver is a transfer in shared
// memory: nothing to do, but worth noting.
enum class StepKind { kCpuKernel, kGpuKernel, kWrite, kRead, kHandOver };

// Kernels of the GPU, writes and reads are handed to its queue, which works them off in order.
struct Step {
  StepKind kind = StepKind::kCpuKernel;
  std::string name, region;
  tvm::ffi::Function function;    // of kernels
  std::vector<Operand> operands;  // of transfers: source and destination
  // Before the step: wait until the queue has got through that step. -1: for nothing.
  int wait_for = -1;
  bool waited_for = false;

  bool queued() const { return kind != StepKind::kCpuKernel && kind != StepKind::kHandOver; }
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
