// SPDX-License-Identifier: Apache-2.0
//
// TVM's view of an OpenCL device: memory, copies, streams, attributes. What copies wait for: copies.h.
#include "device_api.h"

#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>
#include <tvm/runtime/device_api.h>

#include <string>
#include <vector>

#include "boundary.h"
#include "copies.h"
#include "device.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

using tvm::Device;  // shadows ours in this file: a DLDevice
using DeviceState = ::syncnas::opencl::Device;
using tvm::runtime::DeviceAttrKind;

thread_local int current_device = 0;

Buffer* AsBuffer(const void* pointer) {
  return const_cast<Buffer*>(static_cast<const Buffer*>(pointer));
}

class OpenCLDeviceAPI final : public tvm::runtime::DeviceAPI {
 public:
  void SetDevice(Device device) final { current_device = device.device_id; }

  void GetAttr(Device device, DeviceAttrKind kind, tvm::ffi::Any* value) final {
    if (kind == tvm::runtime::kExist) {
      // The one question that never fails: no library, no platform, no device all mean "no".
      *value = static_cast<int64_t>(device.device_id >= 0 && device.device_id < CountDevices());
      return;
    }
    RaisingInTvm([&] { *value = Attribute(OpenDevice(device.device_id), kind); });
  }

  void GetTargetProperty(Device device, const std::string& property, tvm::ffi::Any* value) final {
    RaisingInTvm([&] {
      const DeviceState& state = OpenDevice(device.device_id);
      if (property == "max_threads_per_block" || property == "max_num_threads") {
        *value = static_cast<int64_t>(state.limits().max_work_group_size);
      } else if (property == "max_shared_memory_per_block") {
        *value = static_cast<int64_t>(state.limits().local_memory);
      } else if (property == "thread_warp_size") {
        *value = int64_t{1};
      }
    });
  }

  // AllocWorkspace and FreeWorkspace end up here too, so temporary memory is pooled as well.
  using DeviceAPI::AllocDataSpace;
  void* AllocDataSpace(Device device, size_t bytes, size_t, DLDataType) final {
    void* allocated = nullptr;
    RaisingInTvm([&] {
      DeviceState& state = OpenDevice(device.device_id);
      allocated = state.buffers().Allocate(bytes, state.CurrentStream());
    });
    return allocated;
  }

  void FreeDataSpace(Device, void* pointer) final {
    if (pointer == nullptr || ShuttingDown()) return;
    RaisingInTvm([&] {
      Buffer* buffer = AsBuffer(pointer);
      buffer->device.buffers().Free(buffer);
    });
  }

  TVMStreamHandle CreateStream(Device device) final {
    TVMStreamHandle stream = nullptr;
    RaisingInTvm([&] { stream = OpenDevice(device.device_id).CreateStream(); });
    return stream;
  }

  void FreeStream(Device device, TVMStreamHandle stream) final {
    // Only this thread's choice can be seen from here; other threads must not use it any more.
    if (TVMFFIEnvGetStream(kDLOpenCL, device.device_id) == stream) SetStream(device, nullptr);
    RaisingInTvm([&] { OpenDevice(device.device_id).FreeStream(static_cast<Stream*>(stream)); });
  }

  // No stream means all of them, as with CUDA's default stream: whoever asks for that wants the
  // device to be idle.
  void StreamSync(Device device, TVMStreamHandle stream) final {
    RaisingInTvm([&] {
      DeviceState& state = OpenDevice(device.device_id);
      if (stream == nullptr) {
        state.FinishAll();
      } else {
        static_cast<Stream*>(stream)->Finish();
      }
    });
  }

  void SyncStreamFromTo(Device device, TVMStreamHandle source, TVMStreamHandle target) final {
    RaisingInTvm(
        [&] { StreamOrCurrent(device, target).WaitFor(StreamOrCurrent(device, source)); });
  }

 protected:
  using DeviceAPI::CopyDataFromTo;
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset, size_t bytes,
                      Device from_device, Device to_device, DLDataType,
                      TVMStreamHandle stream) final {
    if (bytes == 0) return;
    const bool from_here = from_device.device_type == kDLOpenCL;
    const bool to_here = to_device.device_type == kDLOpenCL;
    RaisingInTvm([&] {
      if (from_here && to_here) {
        CopyOnDevices(AsBuffer(from), from_offset, AsBuffer(to), to_offset, bytes, from_device,
                      to_device, stream);
      } else if (to_here) {
        Write(AsBuffer(to), to_offset, static_cast<const char*>(from) + from_offset, bytes,
              StreamOrCurrent(to_device, stream));
      } else {
        Read(AsBuffer(from), from_offset, static_cast<char*>(to) + to_offset, bytes,
             StreamOrCurrent(from_device, stream));
      }
    });
  }

 private:
  static Stream& StreamOrCurrent(Device device, TVMStreamHandle stream) {
    if (stream != nullptr) return *static_cast<Stream*>(stream);
    return OpenDevice(device.device_id).CurrentStream();
  }

  static void CopyOnDevices(Buffer* from, size_t from_offset, Buffer* to, size_t to_offset,
                            size_t bytes, Device from_device, Device to_device,
                            TVMStreamHandle stream) {
    if (&from->device == &to->device) {
      Copy(from, from_offset, to, to_offset, bytes, StreamOrCurrent(from_device, stream));
      return;
    }
    // `stream` belongs to one of the two devices; the other side uses its own current stream.
    std::vector<char> bounce(bytes);
    Read(from, from_offset, bounce.data(), bytes, StreamOrCurrent(from_device, nullptr));
    Write(to, to_offset, bounce.data(), bytes, StreamOrCurrent(to_device, nullptr));
  }

  static tvm::ffi::Any Attribute(DeviceState& state, DeviceAttrKind kind) {
    const DeviceLimits& limits = state.limits();
    switch (kind) {
      case tvm::runtime::kMaxThreadsPerBlock:
        return static_cast<int64_t>(limits.max_work_group_size);
      case tvm::runtime::kWarpSize:
        return int64_t{1};  // OpenCL 1.2 does not tell; code generation must not rely on more
      case tvm::runtime::kMaxSharedMemoryPerBlock:
        return static_cast<int64_t>(limits.local_memory);
      case tvm::runtime::kComputeVersion:
        return tvm::ffi::String(OpenCLVersion(state));
      case tvm::runtime::kApiVersion:
        return int64_t{120};  // what this runtime uses, whatever more the device has
      case tvm::runtime::kDeviceName:
        return tvm::ffi::String(state.name());
      case tvm::runtime::kDriverVersion:
        return tvm::ffi::String(state.InfoString(kClDriverVersion));
      case tvm::runtime::kMaxClockRate:  // kHz
        return static_cast<int64_t>(state.Info<cl_uint>(kClDeviceMaxClockFrequency)) * 1000;
      case tvm::runtime::kMultiProcessorCount:
        return static_cast<int64_t>(state.Info<cl_uint>(kClDeviceMaxComputeUnits));
      case tvm::runtime::kMaxThreadDimensions:
        return tvm::ffi::String(WorkItemSizes(limits));
      case tvm::runtime::kL2CacheSizeBytes:
        return static_cast<int64_t>(state.Info<cl_ulong>(kClDeviceGlobalMemCacheSize));
      case tvm::runtime::kTotalGlobalMemory:
        return static_cast<int64_t>(limits.global_memory);
      case tvm::runtime::kAvailableGlobalMemory:
        return static_cast<int64_t>(limits.global_memory) -
               static_cast<int64_t>(state.buffers().Stats().live_bytes);
      default:
        return nullptr;  // has no meaning here
    }
  }

  static std::string WorkItemSizes(const DeviceLimits& limits) {
    std::string text;
    for (size_t size : limits.max_work_item_sizes) {
      text += (text.empty() ? "[" : ", ") + std::to_string(size);
    }
    return text + "]";
  }
};

TVM_FFI_STATIC_INIT_BLOCK() {
  DefineGlobals().def("device_api.opencl", []() -> void* {
    static auto* api = new OpenCLDeviceAPI();  // never freed: tensors may outlive static objects
    return static_cast<tvm::runtime::DeviceAPI*>(api);
  });
}

}  // namespace

int CurrentDeviceIndex() { return current_device; }

std::string OpenCLVersion(const ::syncnas::opencl::Device& device) {
  // "OpenCL <major>.<minor> <anything>"
  const std::string text = device.InfoString(kClDeviceVersion);
  const size_t begin = text.find(' ');
  if (begin == std::string::npos) return text;
  return text.substr(begin + 1, text.find(' ', begin + 1) - begin - 1);
}

}  // namespace syncnas::opencl
