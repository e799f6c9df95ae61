// SPDX-License-Identifier: Apache-2.0
#include "runner.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/json.h>

#include <chrono>
#include <cstring>

#include "../clock_sync.h"
#include "../device.h"
#include "../json.h"
#include "host_tensor.h"
#include "recorder.h"

namespace syncnas::runner {

namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;
using Clock = std::chrono::steady_clock;

constexpr int kPooledAllocator = 2;

ffi::Function Member(const ffi::Module& module, const char* name) {
  auto function = module->GetFunction(name, true);
  if (!function.has_value()) {
    TVM_FFI_THROW(RuntimeError) << "model.so has no function '" << name
                                << "'; compile the model again";
  }
  return *function;
}

ffi::Module LoadVM(const std::string& folder, bool uses_gpu) {
  const std::string path = folder + "/model.so";
  ffi::Module vm = Member(ffi::Module::LoadFromFile(path), "vm_load_executable")().cast<ffi::Module>();
  const ffi::Function initialize = Member(vm, "vm_initialization");
  // (device type, device id, allocator) of each device; the VM wants the CPU at the end too.
  if (uses_gpu) {
    initialize(int{kDLCPU}, 0, kPooledAllocator, int{kDLOpenCL}, 0, kPooledAllocator, int{kDLCPU}, 0,
               kPooledAllocator);
  } else {
    initialize(int{kDLCPU}, 0, kPooledAllocator);
  }
  return vm;
}

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

}  // namespace

Runner::Runner(const std::string& folder)
    : folder_(folder), manifest_(ReadManifest(folder)), lane_(manifest_.cpus, manifest_.cpu_threads) {
  if (manifest_.uses_gpu) opencl::OpenDevice(0);  // says what is missing, in one line
  vm_ = LoadVM(folder, manifest_.uses_gpu);
  main_ = Member(*vm_, "main");
  for (const TensorSpec& spec : manifest_.inputs) {
    inputs_.push_back(MakeHostTensor(spec));
    arguments_.push_back(inputs_.back());
  }
  if (manifest_.uses_gpu) UploadWeights();
}

void Runner::UploadWeights() {
  for (const ffi::Any& weight : Member(*vm_, "gpu_weights")().cast<ffi::Array<ffi::Any>>()) {
    arguments_.push_back(weight);
  }
}

ffi::Tensor& Runner::Input(int64_t index) {
  if (index < 0 || index >= static_cast<int64_t>(inputs_.size())) {
    TVM_FFI_THROW(ValueError) << "no input " << index << "; the model has " << inputs_.size();
  }
  return inputs_[index];
}

void Runner::SetInput(int64_t index, const void* data, size_t bytes) {
  ffi::Tensor& input = Input(index);
  const size_t expected = TensorBytes(*input.GetDLTensorPtr());
  if (bytes != expected) {
    TVM_FFI_THROW(ValueError) << "input '" << manifest_.inputs[index].name << "' takes " << expected
                              << " bytes, " << bytes << " were given";
  }
  std::memcpy(input.data_ptr(), data, bytes);
}

void Runner::SetInput(int64_t index, const DLTensor& tensor) {
  const DLTensor& input = *Input(index).GetDLTensorPtr();
  const bool same_type = tensor.dtype.code == input.dtype.code &&
                         tensor.dtype.bits == input.dtype.bits &&
                         tensor.dtype.lanes == input.dtype.lanes;
  const bool same_shape =
      tensor.ndim == input.ndim &&
      std::memcmp(tensor.shape, input.shape, sizeof(int64_t) * input.ndim) == 0;
  if (!same_type || !same_shape || tensor.device.device_type != kDLCPU) {
    TVM_FFI_THROW(ValueError) << "input '" << manifest_.inputs[index].name
                              << "' takes a CPU tensor of the model's own shape and type";
  }
  SetInput(index, static_cast<const char*>(tensor.data) + tensor.byte_offset, TensorBytes(tensor));
}

void Runner::RunOnce() {
  std::vector<ffi::AnyView> views(arguments_.begin(), arguments_.end());
  ffi::Any result;
  main_.CallPacked(views.data(), static_cast<int32_t>(views.size()), &result);
  outputs_.clear();
  if (manifest_.outputs.size() == 1) {
    outputs_.push_back(result.cast<ffi::Tensor>());
    return;
  }
  for (const ffi::Any& item : result.cast<ffi::Array<ffi::Any>>()) {
    outputs_.push_back(item.cast<ffi::Tensor>());
  }
}

void Runner::Run() {
  const CpuLane::Guard guard(lane_);
  RunOnce();
}

const ffi::Tensor& Runner::GetOutput(int64_t index) const {
  if (index < 0 || index >= static_cast<int64_t>(outputs_.size())) {
    TVM_FFI_THROW(ValueError) << "no output " << index << "; "
                              << (outputs_.empty() ? "run the model first" : "it has fewer");
  }
  return outputs_[index];
}

std::vector<double> Runner::Time(int64_t repeat, double seconds) {
  const CpuLane::Guard guard(lane_);
  std::vector<double> latencies_us;
  const Clock::time_point begin = Clock::now();
  while (static_cast<int64_t>(latencies_us.size()) < repeat) {
    const Clock::time_point start = Clock::now();
    RunOnce();
    latencies_us.push_back(MicrosecondsSince(start));
    if (seconds > 0 && MicrosecondsSince(begin) >= seconds * 1e6) break;
  }
  return latencies_us;
}

std::string Runner::Profile() {
  const ffi::Function instrument = Member(*vm_, "set_instrument");
  const bool gpu = manifest_.uses_gpu;
  Run();
  Recorder recorder;
  instrument(recorder.instrument());
  if (gpu) ffi::Function::GetGlobalRequired("syncnas.opencl.profile_start")();
  const int64_t start_ns = opencl::HostNow();
  std::string problem, queue = "[]";
  try {
    Run();
  } catch (const ffi::Error& error) {
    problem = error.message();
  }
  // In every case: an instrument or a recording queue left behind would slow later runs down.
  instrument(ffi::Function::FromPacked(
      [](const ffi::AnyView*, int32_t, ffi::Any* result) { *result = int64_t{0}; }));
  if (gpu) {
    queue = ffi::Function::GetGlobalRequired("syncnas.opencl.profile_stop")().cast<std::string>();
  }
  if (!problem.empty()) TVM_FFI_THROW(RuntimeError) << problem;
  return "{\"start_ns\": " + std::to_string(start_ns) + ", \"events\": " + recorder.Json() +
         ", \"queue\": " + queue + "}";
}

std::string Runner::Describe() const {
  json::Array cpus;
  for (int core : lane_.cpus()) cpus.push_back(int64_t{core});
  json::Object object;
  object.Set(ffi::String("target"), ffi::String(manifest_.target));
  object.Set(ffi::String("cpus"), cpus);
  object.Set(ffi::String("cpu_threads"), int64_t{lane_.threads()});
  object.Set(ffi::String("gpu"),
             manifest_.uses_gpu ? ffi::String(opencl::OpenDevice(0).name()) : ffi::String());
  object.Set(ffi::String("weights"), static_cast<int64_t>(arguments_.size() - inputs_.size()));
  return json::Stringify(object);
}

}  // namespace syncnas::runner
