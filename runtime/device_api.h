// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace syncnas::opencl {

class Device;

// The device that TVM's SetDevice chose for the calling thread; 0 before any choice.
int CurrentDeviceIndex();

// "3.0" out of the version string that a device reports.
std::string OpenCLVersion(const Device& device);

}  // namespace syncnas::opencl
