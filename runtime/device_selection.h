// SPDX-License-Identifier: Apache-2.0
//
// Which device is TVM's opencl(0): the one that SYNCNAS_OPENCL_DEVICE asks for, else the first GPU,
// else the first device. The others follow in the platforms' own order.
#pragma once

#include <string>
#include <vector>

#include "opencl_types.h"

namespace syncnas::opencl {

struct DeviceEntry {
  cl_platform_id platform;
  cl_device_id id;
  std::string name;
  cl_bitfield type;
};

// Every device of every platform, in the order that clinfo shows. Empty with *problem set when there
// is no library, no platform or no device.
std::vector<DeviceEntry> EnumerateDevices(std::string* problem);

// `wish` is an index into `entries` or a part of a name in any case; empty means no wish. When it
// matches nothing, *problem says so and lists the devices.
std::vector<DeviceEntry> OrderDevices(std::vector<DeviceEntry> entries, const std::string& wish,
                                      std::string* problem);

}  // namespace syncnas::opencl
