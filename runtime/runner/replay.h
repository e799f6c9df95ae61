// SPDX-License-Identifier: Apache-2.0
//
// Runs a model as one list of calls, on memory that is allocated once.
//
// The Relax VM allocates, checks and frees around every kernel: half a thousand calls in a network of
// fifty kernels, all on the thread that should be computing or keeping the GPU busy. Shapes are
// static here, so what it does is captured in a first run and played back in all others.
//
// What that adds for two lanes: values that both touch are in shared memory where the device has it,
// so a sync moves no bytes; and the CPU lane waits for the one kernel whose result it reads, after
// the GPU has got its next ones, so that the GPU does not run dry.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../launch.h"
#include "../memory_kind.h"
#include "../stream.h"
#include "manifest.h"
#include "recorder.h"
#include "slot_memory.h"
#include "steps.h"
#include "transfers.h"

namespace syncnas::runner {

class Replay {
 public:
  // Loads the VM's executable, uploads the GPU lane's weights and runs the model once.
  Replay(const std::string& folder, const Manifest& manifest);
  ~Replay();

  // Where the next run reads its inputs, and where the last one left its outputs: on the host.
  const std::vector<tvm::ffi::Tensor>& inputs() const { return inputs_; }
  const std::vector<tvm::ffi::Tensor>& outputs() const { return outputs_; }
  size_t weights() const { return weights_.size(); }

  // With `recorder`, notes when each step begins and ends on the host.
  void Run(Recorder* recorder = nullptr);

 private:
  struct Call;

  Replay(const std::string& folder, const Manifest& manifest, opencl::MemoryKind kind);
  void Prepare();
  static std::unique_ptr<opencl::Launch> LaunchOf(const Step& step, const Call& call);
  void AddTransfer(int step);
  void WaitFor(int step, Recorder* recorder);
  void LetGo();
  static void Release(opencl::Pending& pending);

  tvm::ffi::Optional<tvm::ffi::Module> vm_;  // its library has the kernels
  std::vector<tvm::ffi::Any> weights_;
  Steps steps_;
  std::shared_ptr<SlotMemory> memory_;
  std::vector<Call> calls_;  // by step
  std::vector<opencl::Pending> pending_;  // by step: what is still to be waited for
  Transfers transfers_;
  bool queue_in_use_ = false;  // by a run that has not ended, or has failed
  std::vector<tvm::ffi::Tensor> inputs_, outputs_;
  std::mutex mutex_;  // the memory is one run's at a time
};

}  // namespace syncnas::runner
