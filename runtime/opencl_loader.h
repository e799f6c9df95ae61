// SPDX-License-Identifier: Apache-2.0
//
// libOpenCL, opened at run time. Linking against it would tie the plugin to one machine: Debian
// ships only libOpenCL.so.1, Android keeps the driver in vendor folders, and a machine without
// OpenCL must still be able to load the plugin and be told so.
#pragma once

#include <string>

#include "opencl_types.h"

namespace syncnas::opencl {

// X(result type, name, parameter list): every entry point this runtime uses.
#define SYNCNAS_OPENCL_ENTRY_POINTS(X)                                                            \
  X(cl_int, clGetPlatformIDs, (cl_uint, cl_platform_id*, cl_uint*))                               \
  X(cl_int, clGetPlatformInfo, (cl_platform_id, cl_uint, size_t, void*, size_t*))                 \
  X(cl_int, clGetDeviceIDs, (cl_platform_id, cl_bitfield, cl_uint, cl_device_id*, cl_uint*))      \
  X(cl_int, clGetDeviceInfo, (cl_device_id, cl_uint, size_t, void*, size_t*))                     \
  X(cl_context, clCreateContext,                                                                  \
    (const intptr_t*, cl_uint, const cl_device_id*,                                               \
     void (*)(const char*, const void*, size_t, void*), void*, cl_int*))                          \
  X(cl_command_queue, clCreateCommandQueue, (cl_context, cl_device_id, cl_bitfield, cl_int*))     \
  X(cl_int, clRetainCommandQueue, (cl_command_queue))                                             \
  X(cl_int, clReleaseCommandQueue, (cl_command_queue))                                            \
  X(cl_mem, clCreateBuffer, (cl_context, cl_bitfield, size_t, void*, cl_int*))                    \
  X(cl_mem, clCreateImage,                                                                        \
    (cl_context, cl_bitfield, const ImageFormat*, const ImageDescription*, void*, cl_int*))       \
  X(cl_int, clReleaseMemObject, (cl_mem))                                                         \
  X(cl_program, clCreateProgramWithSource,                                                        \
    (cl_context, cl_uint, const char**, const size_t*, cl_int*))                                  \
  X(cl_int, clBuildProgram,                                                                       \
    (cl_program, cl_uint, const cl_device_id*, const char*, void (*)(cl_program, void*), void*))  \
  X(cl_int, clGetProgramBuildInfo, (cl_program, cl_device_id, cl_uint, size_t, void*, size_t*))   \
  X(cl_int, clReleaseProgram, (cl_program))                                                       \
  X(cl_kernel, clCreateKernel, (cl_program, const char*, cl_int*))                                \
  X(cl_int, clReleaseKernel, (cl_kernel))                                                         \
  X(cl_int, clSetKernelArg, (cl_kernel, cl_uint, size_t, const void*))                            \
  X(cl_int, clGetKernelWorkGroupInfo,                                                             \
    (cl_kernel, cl_device_id, cl_uint, size_t, void*, size_t*))                                   \
  X(cl_int, clEnqueueNDRangeKernel,                                                               \
    (cl_command_queue, cl_kernel, cl_uint, const size_t*, const size_t*, const size_t*, cl_uint,  \
     const cl_event*, cl_event*))                                                                 \
  X(cl_int, clEnqueueReadBuffer,                                                                  \
    (cl_command_queue, cl_mem, cl_bool, size_t, size_t, void*, cl_uint, const cl_event*,          \
     cl_event*))                                                                                  \
  X(cl_int, clEnqueueWriteBuffer,                                                                 \
    (cl_command_queue, cl_mem, cl_bool, size_t, size_t, const void*, cl_uint, const cl_event*,    \
     cl_event*))                                                                                  \
  X(cl_int, clEnqueueReadBufferRect,                                                              \
    (cl_command_queue, cl_mem, cl_bool, const size_t*, const size_t*, const size_t*, size_t,      \
     size_t, size_t, size_t, void*, cl_uint, const cl_event*, cl_event*))                         \
  X(cl_int, clEnqueueWriteBufferRect,                                                             \
    (cl_command_queue, cl_mem, cl_bool, const size_t*, const size_t*, const size_t*, size_t,      \
     size_t, size_t, size_t, const void*, cl_uint, const cl_event*, cl_event*))                   \
  X(cl_int, clEnqueueCopyBuffer,                                                                  \
    (cl_command_queue, cl_mem, cl_mem, size_t, size_t, size_t, cl_uint, const cl_event*,          \
     cl_event*))                                                                                  \
  X(void*, clEnqueueMapBuffer,                                                                    \
    (cl_command_queue, cl_mem, cl_bool, cl_bitfield, size_t, size_t, cl_uint, const cl_event*,    \
     cl_event*, cl_int*))                                                                         \
  X(cl_int, clEnqueueUnmapMemObject,                                                              \
    (cl_command_queue, cl_mem, void*, cl_uint, const cl_event*, cl_event*))                       \
  X(cl_int, clEnqueueMarkerWithWaitList,                                                          \
    (cl_command_queue, cl_uint, const cl_event*, cl_event*))                                      \
  X(cl_int, clEnqueueBarrierWithWaitList,                                                         \
    (cl_command_queue, cl_uint, const cl_event*, cl_event*))                                      \
  X(cl_int, clFlush, (cl_command_queue))                                                          \
  X(cl_int, clFinish, (cl_command_queue))                                                         \
  X(cl_int, clWaitForEvents, (cl_uint, const cl_event*))                                          \
  X(cl_int, clGetEventInfo, (cl_event, cl_uint, size_t, void*, size_t*))                          \
  X(cl_int, clGetEventProfilingInfo, (cl_event, cl_uint, size_t, void*, size_t*))                 \
  X(cl_int, clRetainEvent, (cl_event))                                                            \
  X(cl_int, clReleaseEvent, (cl_event))

// OpenCL 2.0: a null pointer where the library has none.
#define SYNCNAS_OPENCL_OPTIONAL_ENTRY_POINTS(X)                      \
  X(void*, clSVMAlloc, (cl_context, cl_bitfield, size_t, cl_uint))   \
  X(void, clSVMFree, (cl_context, void*))

struct EntryPoints {
#define SYNCNAS_DECLARE_ENTRY_POINT(result, name, parameters) result(*name) parameters = nullptr;
  SYNCNAS_OPENCL_ENTRY_POINTS(SYNCNAS_DECLARE_ENTRY_POINT)
  SYNCNAS_OPENCL_OPTIONAL_ENTRY_POINTS(SYNCNAS_DECLARE_ENTRY_POINT)
#undef SYNCNAS_DECLARE_ENTRY_POINT
};

// The entry points, or nullptr with the reason in *problem. The library is looked for once and
// stays open for the life of the process: drivers do not survive being closed and opened again.
const EntryPoints* FindOpenCL(std::string* problem);

// The entry points; throws a RuntimeError that says what to install when there is no library.
const EntryPoints& CL();

// What a user can do when no OpenCL implementation is found.
extern const char* const kInstallHint;

}  // namespace syncnas::opencl
