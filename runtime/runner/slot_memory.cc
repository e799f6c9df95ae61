// SPDX-License-Identifier: Apache-2.0
#include "slot_memory.h"

#include <tvm/ffi/error.h>

#include <cstring>
#include <utility>

#include "../device.h"
#include "../host_memory.h"

namespace syncnas::runner {

namespace {

namespace ffi = tvm::ffi;

opencl::Buffer* AsBuffer(void* pointer) { return static_cast<opencl::Buffer*>(pointer); }

struct View {
  std::shared_ptr<SlotMemory> owner;
  void* data;

  void AllocData(DLTensor* tensor) { tensor->data = data; }
  void FreeData(DLTensor*) { owner.reset(); }
};

}  // namespace

SlotMemory::SlotMemory(const Steps& steps, MemoryPlan plan)
    : plan_(std::move(plan)),
      host_(plan_.slots.size(), nullptr),
      device_(plan_.slots.size(), nullptr) {
  for (size_t i = 0; i < plan_.slots.size(); ++i) {
    const Memory& slot = plan_.slots[i];
    if (!slot.device) {
      host_[i] = opencl::AllocateHost(slot.bytes);
      std::memset(host_[i], 0, slot.bytes);
      continue;
    }
    opencl::Device& device = opencl::OpenDevice(0);
    opencl::Buffer* buffer = device.buffers().Allocate(slot.bytes, device.CurrentStream());
    device_[i] = buffer;
    if (!slot.host) continue;
    host_[i] = buffer->shared;
    if (host_[i] == nullptr) {
      TVM_FFI_THROW(MemoryError) << "OpenCL: device '" << device.name() << "' has no "
                                 << slot.bytes << " bytes of shared memory left; "
                                 << "set SYNCNAS_OPENCL_MEMORY=copied to do without";
    }
    std::memset(host_[i], 0, slot.bytes);
  }
}

SlotMemory::~SlotMemory() {
  for (size_t i = 0; i < plan_.slots.size(); ++i) {
    if (device_[i] == nullptr) {
      opencl::FreeHost(host_[i]);
    } else if (!opencl::ShuttingDown()) {
      AsBuffer(device_[i])->device.buffers().Free(AsBuffer(device_[i]));
    }
  }
}

void* SlotMemory::Data(const Value& value) const {
  const int slot = plan_.slot_of[value.memory];
  return value.on_device ? device_[slot] : host_[slot];
}

ffi::Tensor SlotMemory::HostTensor(const Value& value) {
  return ffi::Tensor::FromNDAlloc(View{shared_from_this(), Data(value)},
                                  ffi::Shape(value.shape.begin(), value.shape.end()), value.dtype,
                                  DLDevice{kDLCPU, 0});
}

}  // namespace syncnas::runner
