// SPDX-License-Identifier: Apache-2.0
//
// The memory that a captured run works in, allocated once.
#pragma once

#include <tvm/ffi/container/tensor.h>

#include <memory>
#include <vector>

#include "order_steps.h"

namespace syncnas::runner {

class SlotMemory : public std::enable_shared_from_this<SlotMemory> {
 public:
  SlotMemory(const Steps& steps, MemoryPlan plan);
  ~SlotMemory();
  SlotMemory(const SlotMemory&) = delete;
  SlotMemory& operator=(const SlotMemory&) = delete;

  // What a tensor on the value's lane has as data: an address on the host, a buffer on the device.
  void* Data(const Value& value) const;
  // A tensor of `value`, which is on the host; keeps the memory.
  tvm::ffi::Tensor HostTensor(const Value& value);

 private:
  const MemoryPlan plan_;
  std::vector<void*> host_;    // by slot: where the host sees it, if it does
  std::vector<void*> device_;  // by slot: an opencl::Buffer, if the device sees it
};

}  // namespace syncnas::runner
