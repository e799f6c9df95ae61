// SPDX-License-Identifier: Apache-2.0
//
// A compiled folder on this device: both lanes, weights uploaded once. What the C++ API
// (include/syncnas/c_api.h) and the functions for RPC (rpc_functions.cc) are made of.
#pragma once

#include <tvm/ffi/container/tensor.h>

#include <string>
#include <vector>

#include "cpu_lane.h"
#include "manifest.h"
#include "replay.h"

namespace syncnas::runner {

class Runner {
 public:
  // On the cores that the folder's manifest names.
  explicit Runner(const std::string& folder);
  Runner(const std::string& folder, Manifest manifest, CpuLane lane);

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
  Runner(const std::string& folder, Manifest manifest);
  const tvm::ffi::Tensor& Input(int64_t index) const;

  Manifest manifest_;
  CpuLane lane_;
  Replay replay_;
  bool ran_ = false;
};

}  // namespace syncnas::runner
