// SPDX-License-Identifier: Apache-2.0
//
// A compiled folder on this device: both lanes, weights uploaded once. What the C++ API
// (include/syncnas/c_api.h) and the functions for RPC (rpc_functions.cc) are made of.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <string>
#include <vector>

#include "cpu_lane.h"
#include "manifest.h"

namespace syncnas::runner {

class Runner {
 public:
  explicit Runner(const std::string& folder);

  const Manifest& manifest() const { return manifest_; }
  const CpuLane& lane() const { return lane_; }

  // Copies `tensor`, on the CPU, with the shape and type of input `index`.
  void SetInput(int64_t index, const DLTensor& tensor);
  void SetInput(int64_t index, const void* data, size_t bytes);
  void Run();
  const tvm::ffi::Tensor& GetOutput(int64_t index) const;

  // Latencies in microseconds: up to `repeat` runs, none begun after `seconds` (0: no limit).
  std::vector<double> Time(int64_t repeat, double seconds);
  std::string Profile();
  std::string Describe() const;

 private:
  void RunOnce();
  void UploadWeights();
  tvm::ffi::Tensor& Input(int64_t index);

  std::string folder_;
  Manifest manifest_;
  CpuLane lane_;
  tvm::ffi::Optional<tvm::ffi::Module> vm_;
  tvm::ffi::Function main_;
  std::vector<tvm::ffi::Tensor> inputs_;
  std::vector<tvm::ffi::Any> arguments_;  // inputs, then the GPU lane's weights
  std::vector<tvm::ffi::Tensor> outputs_;
};

}  // namespace syncnas::runner
