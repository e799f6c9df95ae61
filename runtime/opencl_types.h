// SPDX-License-Identifier: Apache-2.0
//
// The part of the OpenCL 1.2 interface that this runtime calls, declared here so that neither a
// build machine nor an Android NDK needs the Khronos headers. Everything lives in a namespace:
// including a real <CL/cl.h> in the same program stays possible.
#pragma once

#include <cstddef>
#include <cstdint>

namespace syncnas::opencl {

using cl_int = int32_t;
using cl_uint = uint32_t;
using cl_ulong = uint64_t;
using cl_bool = cl_uint;
using cl_bitfield = cl_ulong;

// Handles are opaque: one distinct incomplete type each, so that they cannot be mixed up.
using cl_platform_id = struct PlatformHandle*;
using cl_device_id = struct DeviceHandle*;
using cl_context = struct ContextHandle*;
using cl_command_queue = struct CommandQueueHandle*;
using cl_mem = struct MemHandle*;
using cl_program = struct ProgramHandle*;
using cl_kernel = struct KernelHandle*;
using cl_event = struct EventHandle*;

// As cl_image_format and cl_image_desc.
struct ImageFormat {
  cl_uint order = 0;
  cl_uint type = 0;
};
struct ImageDescription {
  cl_uint type = 0;
  size_t width = 0, height = 0, depth = 0, array_size = 0, row_pitch = 0, slice_pitch = 0;
  cl_uint mip_levels = 0, samples = 0;
  cl_mem buffer = nullptr;
};

constexpr cl_bool kClFalse = 0;

constexpr cl_int kClSuccess = 0;
constexpr cl_int kClDeviceNotFound = -1;
constexpr cl_int kClMemObjectAllocationFailure = -4;
constexpr cl_int kClOutOfResources = -5;
constexpr cl_int kClOutOfHostMemory = -6;
constexpr cl_int kClInvalidBufferSize = -61;
constexpr cl_int kClPlatformNotFoundKhr = -1001;

constexpr cl_uint kClPlatformVersion = 0x0901;
constexpr cl_uint kClPlatformName = 0x0902;

constexpr cl_bitfield kClDeviceTypeCpu = 1 << 1;
constexpr cl_bitfield kClDeviceTypeGpu = 1 << 2;
constexpr cl_bitfield kClDeviceTypeAccelerator = 1 << 3;
constexpr cl_bitfield kClDeviceTypeAll = 0xFFFFFFFF;

constexpr cl_uint kClDeviceType = 0x1000;
constexpr cl_uint kClDeviceMaxComputeUnits = 0x1002;
constexpr cl_uint kClDeviceMaxWorkGroupSize = 0x1004;
constexpr cl_uint kClDeviceMaxWorkItemSizes = 0x1005;
constexpr cl_uint kClDeviceSvmCapabilities = 0x1053;
constexpr cl_uint kClDeviceMaxClockFrequency = 0x100C;
constexpr cl_uint kClDeviceMaxMemAllocSize = 0x1010;
constexpr cl_uint kClDeviceGlobalMemCacheSize = 0x101E;
constexpr cl_uint kClDeviceGlobalMemSize = 0x101F;
constexpr cl_uint kClDeviceLocalMemSize = 0x1023;
constexpr cl_uint kClDeviceName = 0x102B;
constexpr cl_uint kClDriverVersion = 0x102D;
constexpr cl_uint kClDeviceVersion = 0x102F;
constexpr cl_uint kClDeviceExtensions = 0x1030;
constexpr cl_uint kClDeviceHostUnifiedMemory = 0x1035;

constexpr cl_uint kClDeviceImage2dMaxWidth = 0x1011;
constexpr cl_uint kClDeviceImage2dMaxHeight = 0x1012;
constexpr cl_uint kClDeviceImageSupport = 0x1016;

constexpr cl_uint kClRgba = 0x10B5;
constexpr cl_uint kClHalfFloat = 0x10DD;
constexpr cl_uint kClFloat = 0x10DE;
constexpr cl_uint kClMemObjectImage2dArray = 0x10F3;

constexpr cl_bitfield kClMapRead = 1 << 0;
constexpr cl_bitfield kClMapWriteInvalidateRegion = 1 << 2;

constexpr cl_bitfield kClQueueProfilingEnable = 1 << 1;

constexpr cl_bitfield kClMemReadWrite = 1 << 0;
constexpr cl_bitfield kClMemReadOnly = 1 << 2;
constexpr cl_bitfield kClMemUseHostPtr = 1 << 3;
constexpr cl_bitfield kClMemAllocHostPtr = 1 << 4;
constexpr cl_bitfield kClMemCopyHostPtr = 1 << 5;
constexpr cl_bitfield kClMemSvmFineGrainBuffer = 1 << 10;
constexpr cl_bitfield kClDeviceSvmFineGrainBuffer = 1 << 1;

constexpr cl_uint kClProgramBuildLog = 0x1183;
constexpr cl_uint kClKernelWorkGroupSize = 0x11B0;

constexpr cl_uint kClEventCommandExecutionStatus = 0x11D3;
constexpr cl_int kClComplete = 0;

constexpr cl_uint kClProfilingCommandQueued = 0x1280;
constexpr cl_uint kClProfilingCommandSubmit = 0x1281;
constexpr cl_uint kClProfilingCommandStart = 0x1282;
constexpr cl_uint kClProfilingCommandEnd = 0x1283;

}  // namespace syncnas::opencl
