// Synchronization as a compiled model does it, through the functions that TVM's VM calls.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#include "side.h"

enum { CPU = 1, OPENCL = 4 };
static TVMFFIObjectHandle to_device, synchronize, touch;
static DLManagedTensor managed;
static int64_t shape;
static TVMFFIAny source, on_gpu, on_cpu;

static TVMFFIAny integer(int64_t value) {
  TVMFFIAny any = {.type_index = kTVMFFIInt};
  any.v_int64 = value;
  return any;
}

// What an object holds is behind its header.
static const void* cell_of(TVMFFIObjectHandle object) {
  return (const char*)object + sizeof(TVMFFIObject);
}

static TVMFFIAny call(const char* name, TVMFFIObjectHandle function, TVMFFIAny* values, int count) {
  TVMFFIAny result = {.type_index = kTVMFFINone};
  if (TVMFFIFunctionCall(function, values, count, &result) == 0) return result;
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorMoveFromRaised(&error);
  const TVMFFIErrorCell* cell = cell_of(error);
  fprintf(stderr, "%.*s\n", (int)cell->message.size, cell->message.data);
  fail(name, 1);
}

static void release(TVMFFIAny* value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(value->v_obj);
  value->type_index = kTVMFFINone;
}

static TVMFFIObjectHandle global(const char* name) {
  const TVMFFIByteArray text = {name, strlen(name)};
  TVMFFIObjectHandle function = NULL;
  if (TVMFFIFunctionGetGlobal(&text, &function) != 0 || function == NULL) fail(name, 0);
  return function;
}

static TVMFFIAny bytes_of(const char* data, size_t size) {
  const TVMFFIByteArray array = {data, size};
  TVMFFIAny any;
  if (TVMFFIBytesFromByteArray(&array, &any) != 0) fail("TVMFFIBytesFromByteArray", 1);
  return any;
}

static TVMFFIAny text_of(const char* text) {
  const TVMFFIByteArray array = {text, strlen(text)};
  TVMFFIAny any;
  if (TVMFFIStringFromByteArray(&array, &any) != 0) fail("TVMFFIStringFromByteArray", 1);
  return any;
}

static TVMFFIObjectHandle load_kernel(const char* path) {
  FILE* file = fopen(path, "rb");
  static char data[1 << 16];
  if (file == NULL) fail(path, 0);
  const size_t size = fread(data, 1, sizeof(data), file);
  fclose(file);
  TVMFFIAny code = bytes_of(data, size);
  TVMFFIAny module = call("loading", global("ffi.Module.load_from_bytes.opencl"), &code, 1);
  TVMFFIAny values[3] = {module, text_of("touch"), {.type_index = kTVMFFIBool}};
  return call("finding", global("ffi.ModuleGetFunction"), values, 3).v_obj;
}

static void ours_open(const char* memory, const char* plugin, const char* kernel_file) {
  setenv("SYNCNAS_OPENCL_MEMORY", memory, 1);
  if (dlopen(plugin, RTLD_NOW) == NULL) fail(dlerror(), 0);
  to_device = global("vm.builtin.to_device");
  synchronize = global("runtime.Device_StreamSync");
  touch = load_kernel(kernel_file);
  TVMFFIAny index = integer(0);
  TVMFFIAny used = call("memory", global("syncnas.opencl.memory"), &index, 1);
  TVMFFIAny wanted = text_of(memory);
  if (memcmp(&used, &wanted, sizeof(used)) != 0) fail("choosing the memory", 0);  // short strings
}

static void ours_begin(const float* data, size_t count) {
  shape = (int64_t)count;
  managed.dl_tensor = (DLTensor){.data = (void*)data,
                                 .device = {kDLCPU, 0},
                                 .ndim = 1,
                                 .dtype = {kDLFloat, 32, 1},
                                 .shape = &shape};
  source.type_index = kTVMFFITensor;
  TVMFFIObjectHandle handle = NULL;
  if (TVMFFITensorFromDLPack(&managed, 0, 0, &handle) != 0) fail("TVMFFITensorFromDLPack", 1);
  source.v_obj = handle;
}

static void run_kernel(void) {
  TVMFFIAny values[3] = {on_gpu, integer(1), integer(64)};
  call("touch", touch, values, 3);
}

static void ours_to_gpu(void) {
  release(&on_cpu);
  release(&on_gpu);
  TVMFFIAny values[3] = {source, integer(OPENCL), integer(0)};
  on_gpu = call("to_device", to_device, values, 3);
  run_kernel();
  TVMFFIAny device = {.type_index = kTVMFFIDevice};
  device.v_device = (DLDevice){kDLOpenCL, 0};
  TVMFFIAny wait[2] = {device, integer(0)};
  call("synchronize", synchronize, wait, 2);
}

static const float* ours_to_cpu(void) {
  run_kernel();
  TVMFFIAny values[3] = {on_gpu, integer(CPU), integer(0)};
  on_cpu = call("to_device", to_device, values, 3);
  return ((const DLTensor*)cell_of(on_cpu.v_obj))->data;
}

static void ours_end(void) {
  release(&on_cpu);
  release(&on_gpu);
  release(&source);
}

const struct side ours = {"ours", ours_open, ours_begin, ours_to_gpu, ours_to_cpu, ours_end};
