// SPDX-License-Identifier: Apache-2.0
//
// Runs through everything the OpenCL device does, without Python, so that valgrind's report is about
// this code and the driver only; likewise for the sanitizers. `make valgrind` and `make sanitize` build
// it and run it; see Makefile. SYNCNAS_OPENCL_MEMORY chooses how values move.
//
//   leak_check path/to/libsyncnas_opencl.so
#include <dlfcn.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/runtime/device_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace ffi = tvm::ffi;
using tvm::runtime::DeviceAPI;

constexpr int kElements = 1 << 14;
constexpr size_t kBytes = kElements * sizeof(float);
const tvm::Device kOpenCL{kDLOpenCL, 0};
const DLDataType kFloat32{kDLFloat, 32, 1};

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "leak_check: %s\n", what);
  std::exit(1);
}

ffi::Function Global(const char* name) { return ffi::Function::GetGlobalRequired(name); }

DeviceAPI* Api() { return DeviceAPI::Get(kOpenCL); }

// The module format of runtime/module_format.h, for kernels of one buffer and one launch axis.
ffi::Module MakeModule(const std::string& name, const std::string& code) {
  std::string bytes;
  const auto number = [&](uint64_t value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  const auto text = [&](const std::string& value) {
    number(value.size());
    bytes += value;
  };
  text("cl");
  number(1);
  text(name);
  text(name);
  number(1);
  const DLDataType pointer{kDLOpaqueHandle, 64, 1};
  bytes.append(reinterpret_cast<const char*>(&pointer), sizeof(pointer));
  number(1);
  text("blockIdx.x");
  number(0);
  text("// Function: " + name + "\n" + code);
  return Global("ffi.Module.load_from_bytes.opencl")(ffi::Bytes(bytes)).cast<ffi::Module>();
}

DLTensor Tensor(void* data, tvm::Device device, int64_t* shape) {
  return DLTensor{data, device, 1, kFloat32, shape, nullptr, 0};
}

void Copy(void* from, tvm::Device from_device, void* to, tvm::Device to_device) {
  int64_t shape[] = {kElements};
  DLTensor source = Tensor(from, from_device, shape);
  DLTensor target = Tensor(to, to_device, shape);
  Api()->CopyDataFromTo(&source, &target, nullptr);
}

void KernelsAndCopies() {
  const tvm::Device cpu{kDLCPU, 0};
  ffi::Module module = MakeModule(
      "twice", "__kernel void twice(__global float* x) { x[get_global_id(0)] *= 2.0f; }\n");
  ffi::Function twice = module->GetFunction("twice").value();
  std::vector<float> values(kElements, 1.5f), result(kElements);
  void* a = Api()->AllocDataSpace(kOpenCL, kBytes, 64, kFloat32);
  void* b = Api()->AllocWorkspace(kOpenCL, kBytes, kFloat32);
  Copy(values.data(), cpu, a, kOpenCL);
  twice(a, kElements);
  Copy(a, kOpenCL, b, kOpenCL);
  Copy(b, kOpenCL, result.data(), cpu);
  Require(result.front() == 3.0f && result.back() == 3.0f, "wrong values");
  Api()->FreeWorkspace(kOpenCL, b);
  Api()->FreeDataSpace(kOpenCL, a);
}

struct HostMemory {
  void AllocData(DLTensor* tensor) { tensor->data = std::malloc(kBytes); }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

// As the lanes of a compiled model exchange values; what is read outlives what it was read from.
void Transfers() {
  const ffi::Function move = Global("vm.builtin.to_device");
  ffi::Module module = MakeModule(
      "thrice", "__kernel void thrice(__global float* x) { x[get_global_id(0)] *= 3.0f; }\n");
  const ffi::Function thrice = module->GetFunction("thrice").value();
  const ffi::Shape shape{kElements};
  ffi::Tensor host =
      ffi::Tensor::FromNDAlloc(HostMemory(), shape, kFloat32, DLDevice{kDLCPU, 0});
  for (int round = 0; round < 100; ++round) {
    auto* values = static_cast<float*>(host.data_ptr());
    for (int i = 0; i < kElements; ++i) values[i] = static_cast<float>(round);
    auto device = move(host, int{kDLOpenCL}, 0).cast<ffi::Tensor>();
    thrice(device, kElements);
    auto back = move(device, int{kDLCPU}, 0).cast<ffi::Tensor>();
    device = move(host, int{kDLOpenCL}, 0).cast<ffi::Tensor>();
    thrice(device, kElements);
    const auto* found = static_cast<const float*>(back.data_ptr());
    Require(found[0] == 3.0f * round && found[kElements - 1] == found[0], "wrong values moved");
  }
}

// Weights that kernels read as images: made, and given back.
void Textures() {
  const ffi::Function to_texture = Global("syncnas.opencl.to_texture");
  ffi::Tensor host = ffi::Tensor::FromNDAlloc(HostMemory(), ffi::Shape{64, kElements / 256, 4},
                                              kFloat32, DLDevice{kDLCPU, 0});
  std::memset(host.data_ptr(), 0, kBytes);
  for (int round = 0; round < 100; ++round) to_texture(host, 0);
  bool raised = false;
  try {
    Global("vm.builtin.to_device")(to_texture(host, 0), int{kDLCPU}, 0);
  } catch (const ffi::Error& error) {
    raised = error.kind() == "ValueError";
  }
  Require(raised, "copying a texture must raise a ValueError");
}

void Streams() {
  tvm::runtime::DeviceAPI* api = Api();
  void* stream = api->CreateStream(kOpenCL);
  api->SetStream(kOpenCL, stream);
  KernelsAndCopies();
  api->SyncStreamFromTo(kOpenCL, stream, nullptr);
  api->StreamSync(kOpenCL, stream);
  api->FreeStream(kOpenCL, stream);
  KernelsAndCopies();
}

void Threads() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(KernelsAndCopies);
  for (std::thread& thread : threads) thread.join();
}

void Errors() {
  void* buffer = Api()->AllocDataSpace(kOpenCL, kBytes, 64, kFloat32);
  bool raised = false;
  try {
    MakeModule("broken", "__kernel void broken(__global float* x) { x[0] = nonsense; }\n")
        ->GetFunction("broken")
        .value()(buffer, 1);
  } catch (const ffi::Error& error) {
    raised = std::string(error.message()).find("broken") != std::string::npos;
  }
  Require(raised, "a kernel that does not compile must raise an error with its name");
  raised = false;
  try {
    Api()->AllocDataSpace(kOpenCL, size_t{1} << 60, 64, kFloat32);
  } catch (const ffi::Error& error) {
    raised = error.kind() == "MemoryError";
  }
  Require(raised, "an allocation that cannot succeed must raise a MemoryError");
  Api()->FreeDataSpace(kOpenCL, buffer);
}

void Profile() {
  Global("syncnas.opencl.profile_start")();
  KernelsAndCopies();
  const auto records = Global("syncnas.opencl.profile_stop")().cast<ffi::String>();
  Require(std::strstr(records.c_str(), "\"twice\"") != nullptr, "the profile misses a kernel");
}

}  // namespace

int main(int argc, char** argv) {
  Require(argc == 2, "give the path of the plugin");
  Require(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) != nullptr, dlerror());
  KernelsAndCopies();
  Transfers();
  Textures();
  Streams();
  Threads();
  Errors();
  Profile();
  Global("syncnas.opencl.trim_pool")(0);
  std::puts("leak_check: done");
  return 0;
}
