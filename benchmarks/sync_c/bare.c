// Synchronization with OpenCL alone, as one would write it by hand for each kind of memory.
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "opencl.h"
#include "side.h"

static const char* const SOURCE =
    "__kernel void touch(__global float* x) { x[get_global_id(0)] += 1.0f; }";
static cl_handle context, queue, kernel, buffer;
static enum { SHARED, MAPPED, COPIED } memory;
static float *shared, *result;
static const float* from;
static size_t bytes;

static void check(const char* call, int code) {
  if (code != 0) fail(call, code);
}

static void load(void) {
  const char* name = getenv("SYNCNAS_OPENCL_LIBRARY");
  void* library = dlopen(name != NULL ? name : "libOpenCL.so.1", RTLD_NOW);
  if (library == NULL) fail("opening libOpenCL", 0);
#define OPENCL_FIND(result_type, name, parameters) *(void**)&name = dlsym(library, #name);
  OPENCL_CALLS(OPENCL_FIND)
}

// As the project chooses it: the first GPU, else the first device.
static cl_handle first_device(void) {
  const uint64_t types[] = {DEVICE_TYPE_GPU, DEVICE_TYPE_ALL};
  cl_handle platforms[16], device;
  unsigned count = 0;
  check("clGetPlatformIDs", clGetPlatformIDs(16, platforms, &count));
  for (int type = 0; type < 2; ++type) {
    for (unsigned i = 0; i < count && i < 16; ++i) {
      if (clGetDeviceIDs(platforms[i], types[type], 1, &device, NULL) == 0) return device;
    }
  }
  fail("looking for a device", 0);
}

static void bare_open(const char* kind, const char* plugin, const char* kernel_file) {
  (void)plugin, (void)kernel_file;
  load();
  memory = strcmp(kind, "shared") == 0 ? SHARED : strcmp(kind, "mapped") == 0 ? MAPPED : COPIED;
  cl_handle device = first_device();
  int code = 0;
  context = clCreateContext(NULL, 1, &device, NULL, NULL, &code);
  check("clCreateContext", code);
  queue = clCreateCommandQueue(context, device, 0, &code);
  check("clCreateCommandQueue", code);
  const char* source = SOURCE;
  cl_handle program = clCreateProgramWithSource(context, 1, &source, NULL, &code);
  check("clCreateProgramWithSource", code);
  check("clBuildProgram", clBuildProgram(program, 1, &device, "", NULL, NULL));
  kernel = clCreateKernel(program, "touch", &code);
  check("clCreateKernel", code);
}

static void bare_begin(const float* source, size_t count) {
  from = source;
  bytes = count * sizeof(float);
  result = aligned_alloc(64, bytes);
  memset(result, 0, bytes);
  uint64_t flags = MEM_READ_WRITE;
  if (memory == MAPPED) flags |= MEM_ALLOC_HOST_PTR;
  if (memory == SHARED) {
    shared = clSVMAlloc(context, MEM_READ_WRITE | MEM_SVM_FINE, bytes, 0);
    if (shared == NULL) fail("clSVMAlloc", 0);
    flags |= MEM_USE_HOST_PTR;
  }
  int code = 0;
  buffer = clCreateBuffer(context, flags, bytes, memory == SHARED ? shared : NULL, &code);
  check("clCreateBuffer", code);
  check("clSetKernelArg", clSetKernelArg(kernel, 0, sizeof(buffer), &buffer));
}

static void run_kernel(cl_handle* event) {
  const size_t items = 64;
  check("clEnqueueNDRangeKernel", clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &items, &items, 0,
                                                         NULL, event));
  check("clFlush", clFlush(queue));
}

static void* map(uint64_t flags) {
  int code = 0;
  void* data = clEnqueueMapBuffer(queue, buffer, 1, flags, 0, bytes, 0, NULL, NULL, &code);
  check("clEnqueueMapBuffer", code);
  return data;
}

static void unmap(void* data) {
  check("clEnqueueUnmapMemObject", clEnqueueUnmapMemObject(queue, buffer, data, 0, NULL, NULL));
}

static void bare_to_gpu(void) {
  if (memory == SHARED) {
    memcpy(shared, from, bytes);
  } else if (memory == MAPPED) {
    void* data = map(MAP_WRITE_INVALIDATE);
    memcpy(data, from, bytes);
    unmap(data);
  } else {  // blocking: as with the other kinds, the floats may change when they have been handed over
    check("clEnqueueWriteBuffer",
          clEnqueueWriteBuffer(queue, buffer, 1, 0, bytes, from, 0, NULL, NULL));
  }
  run_kernel(NULL);
  check("clFinish", clFinish(queue));
}

// Looks at the event for a while before it sleeps: waking up takes tens of microseconds.
static void wait_for(cl_handle event) {
  struct timespec start, now;
  clock_gettime(CLOCK_MONOTONIC, &start);
  int status = 1;
  do {
    check("clGetEventInfo", clGetEventInfo(event, EVENT_STATUS, sizeof(status), &status, NULL));
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (status > 0 &&
           (now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < 100000);
  check("clWaitForEvents", clWaitForEvents(1, &event));
  clReleaseEvent(event);
}

static const float* bare_to_cpu(void) {
  cl_handle event = NULL;
  run_kernel(memory == SHARED ? &event : NULL);
  if (memory == SHARED) {
    wait_for(event);
    memcpy(result, shared, bytes);
  } else if (memory == MAPPED) {
    void* data = map(MAP_READ);
    memcpy(result, data, bytes);
    unmap(data);
  } else {
    check("clEnqueueReadBuffer",
          clEnqueueReadBuffer(queue, buffer, 1, 0, bytes, result, 0, NULL, NULL));
  }
  return result;
}

static void bare_end(void) {
  clFinish(queue);
  clReleaseMemObject(buffer);
  if (shared != NULL) clSVMFree(context, shared);
  shared = NULL;
  free(result);
}

const struct side bare = {"bare", bare_open, bare_begin, bare_to_gpu, bare_to_cpu, bare_end};
