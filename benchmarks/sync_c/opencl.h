// The few calls of OpenCL that bare.c makes, so that no header package is needed.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef void* cl_handle;
enum { DEVICE_TYPE_GPU = 4 };
#define DEVICE_TYPE_ALL 0xFFFFFFFFu
enum { MEM_READ_WRITE = 1, MEM_USE_HOST_PTR = 8, MEM_ALLOC_HOST_PTR = 16, MEM_SVM_FINE = 1 << 10 };
enum { MAP_READ = 1, MAP_WRITE_INVALIDATE = 4, EVENT_STATUS = 0x11D3 };

// X(result, name, parameters)
#define OPENCL_CALLS(X)                                                                            \
  X(int, clGetPlatformIDs, (unsigned, cl_handle*, unsigned*))                                      \
  X(int, clGetDeviceIDs, (cl_handle, uint64_t, unsigned, cl_handle*, unsigned*))                   \
  X(cl_handle, clCreateContext,                                                                    \
    (const intptr_t*, unsigned, const cl_handle*, void*, void*, int*))                             \
  X(cl_handle, clCreateCommandQueue, (cl_handle, cl_handle, uint64_t, int*))                       \
  X(cl_handle, clCreateBuffer, (cl_handle, uint64_t, size_t, void*, int*))                         \
  X(int, clReleaseMemObject, (cl_handle))                                                          \
  X(void*, clSVMAlloc, (cl_handle, uint64_t, size_t, unsigned))                                    \
  X(void, clSVMFree, (cl_handle, void*))                                                           \
  X(cl_handle, clCreateProgramWithSource,                                                          \
    (cl_handle, unsigned, const char**, const size_t*, int*))                                      \
  X(int, clBuildProgram, (cl_handle, unsigned, const cl_handle*, const char*, void*, void*))       \
  X(cl_handle, clCreateKernel, (cl_handle, const char*, int*))                                     \
  X(int, clSetKernelArg, (cl_handle, unsigned, size_t, const void*))                               \
  X(int, clEnqueueNDRangeKernel,                                                                   \
    (cl_handle, cl_handle, unsigned, const size_t*, const size_t*, const size_t*, unsigned,        \
     const cl_handle*, cl_handle*))                                                                \
  X(int, clEnqueueReadBuffer,                                                                      \
    (cl_handle, cl_handle, unsigned, size_t, size_t, void*, unsigned, const cl_handle*,            \
     cl_handle*))                                                                                  \
  X(int, clEnqueueWriteBuffer,                                                                     \
    (cl_handle, cl_handle, unsigned, size_t, size_t, const void*, unsigned, const cl_handle*,      \
     cl_handle*))                                                                                  \
  X(void*, clEnqueueMapBuffer,                                                                     \
    (cl_handle, cl_handle, unsigned, uint64_t, size_t, size_t, unsigned, const cl_handle*,         \
     cl_handle*, int*))                                                                            \
  X(int, clEnqueueUnmapMemObject,                                                                  \
    (cl_handle, cl_handle, void*, unsigned, const cl_handle*, cl_handle*))                         \
  X(int, clFlush, (cl_handle))                                                                     \
  X(int, clFinish, (cl_handle))                                                                    \
  X(int, clWaitForEvents, (unsigned, const cl_handle*))                                            \
  X(int, clGetEventInfo, (cl_handle, unsigned, size_t, void*, size_t*))                            \
  X(int, clReleaseEvent, (cl_handle))

#define OPENCL_DECLARE(result, name, parameters) static result(*name) parameters;
OPENCL_CALLS(OPENCL_DECLARE)
