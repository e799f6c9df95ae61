// SPDX-License-Identifier: Apache-2.0
//
// How tensors get from the host to a device's buffers and back: what the driver promises decides.
#pragma once

#include <string>

#include "opencl_types.h"

namespace syncnas::opencl {

// From the least that a driver can promise to the most.
enum class MemoryKind {
  kCopied,  // commands of the queue read and write buffers
  kMapped,  // buffers lie in memory that the host reaches, but only while they are mapped
  kShared,  // fine-grained shared virtual memory: the host reaches them while no command uses them
};

// "copied", "mapped", "shared".
const char* MemoryName(MemoryKind kind);

// The most that the device promises: fine-grained buffers among its CL_DEVICE_SVM_CAPABILITIES, or
// CL_DEVICE_HOST_UNIFIED_MEMORY (mapping works everywhere, but moves data through a bus elsewhere).
// Coarse-grained buffers count for nothing: they have to be mapped around every access too.
MemoryKind OfferedMemory(cl_device_id device);

// What OfferedMemory says, unless SYNCNAS_OPENCL_MEMORY names one of the kinds. Throws where it names
// something else, or "shared" on a device without it.
MemoryKind ChooseMemory(cl_device_id device, const std::string& device_name);

}  // namespace syncnas::opencl
