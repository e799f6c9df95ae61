// SPDX-License-Identifier: Apache-2.0
//
// Questions about devices, for Python:
//
// syncnas.opencl.devices()           -> JSON list in TVM's order; "[]" where there is no OpenCL
// syncnas.opencl.pool_stats(index)   -> JSON object {"live_bytes", "cached_bytes", "buffers_created"}
// syncnas.opencl.memory(index)       -> "shared", "mapped" or "copied" (memory_kind.h)
// syncnas.opencl.is_idle(index)      -> whether it is known that nothing is queued or running
// syncnas.opencl.trim_pool(index)    -> None; gives cached buffers back to the driver
#include <tvm/ffi/function.h>

#include "boundary.h"
#include "device.h"
#include "device_api.h"
#include "json.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

std::string PlatformName(cl_platform_id platform) {
  size_t bytes = 0;
  CL().clGetPlatformInfo(platform, kClPlatformName, 0, nullptr, &bytes);
  std::string name(bytes, '\0');
  CL().clGetPlatformInfo(platform, kClPlatformName, bytes, name.data(), nullptr);
  name.resize(std::min(name.find('\0'), name.size()));
  return name;
}

const char* TypeName(cl_bitfield type) {
  if ((type & kClDeviceTypeGpu) != 0) return "gpu";
  if ((type & kClDeviceTypeCpu) != 0) return "cpu";
  if ((type & kClDeviceTypeAccelerator) != 0) return "accelerator";
  return "other";
}

JsonObject Describe(const Device& device) {
  const DeviceLimits& limits = device.limits();
  const std::string extensions = device.InfoString(kClDeviceExtensions);
  return JsonObject()
      .Add("name", device.name())
      .Add("platform", PlatformName(device.platform()))
      .Add("type", TypeName(device.type()))
      .Add("compute_units", static_cast<int64_t>(device.Info<cl_uint>(kClDeviceMaxComputeUnits)))
      .Add("max_work_group_size", static_cast<int64_t>(limits.max_work_group_size))
      .Add("local_memory_bytes", static_cast<int64_t>(limits.local_memory))
      .Add("global_memory_bytes", static_cast<int64_t>(limits.global_memory))
      .Add("max_allocation_bytes", static_cast<int64_t>(limits.max_allocation))
      .Add("opencl_version", OpenCLVersion(device))
      .Add("driver_version", device.InfoString(kClDriverVersion))
      .Add("memory", MemoryName(OfferedMemory(device.id())))
      .Add("has_fp16", extensions.find("cl_khr_fp16") != std::string::npos);
}

tvm::ffi::String ListAsJson() {
  JsonList list;
  for (const Device* device : ListDevices()) list.Add(Describe(*device));
  return list.Text();
}

tvm::ffi::String PoolStatsAsJson(int64_t index) {
  const PoolStats stats = OpenDevice(static_cast<int>(index)).buffers().Stats();
  return JsonObject()
      .Add("live_bytes", static_cast<int64_t>(stats.live_bytes))
      .Add("cached_bytes", static_cast<int64_t>(stats.cached_bytes))
      .Add("buffers_created", static_cast<int64_t>(stats.buffers_created))
      .Text();
}

TVM_FFI_STATIC_INIT_BLOCK() {
  DefineGlobals()
      .def("syncnas.opencl.devices", ListAsJson)
      .def("syncnas.opencl.pool_stats", PoolStatsAsJson)
      .def("syncnas.opencl.memory",
           [](int64_t index) {
             return tvm::ffi::String(MemoryName(OpenDevice(static_cast<int>(index)).memory()));
           })
      .def("syncnas.opencl.is_idle",
           [](int64_t index) {
             Device& device = OpenDevice(static_cast<int>(index));
             Stream& stream = device.CurrentStream();
             return device.shares_memory() ? stream.HasEnded(stream.Submitted())
                                           : stream.KnownIdle();
           })
      .def("syncnas.opencl.trim_pool",
           [](int64_t index) { OpenDevice(static_cast<int>(index)).buffers().Trim(); });
}

}  // namespace

}  // namespace syncnas::opencl
