// SPDX-License-Identifier: Apache-2.0
#include "runner.h"

#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/extra/json.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "../boundary.h"
#include "../clock_sync.h"
#include "../device.h"
#include "../json.h"
#include "recorder.h"

namespace syncnas::runner {

namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;
using Clock = std::chrono::steady_clock;

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

CpuLane LaneOf(const Manifest& manifest) { return CpuLane(manifest.cpus, manifest.cpu_threads); }

}  // namespace

Runner::Runner(const std::string& folder) : Runner(folder, ReadManifest(folder)) {}

Runner::Runner(const std::string& folder, Manifest manifest)
    : Runner(folder, manifest, LaneOf(manifest)) {}

Runner::Runner(const std::string& folder, Manifest manifest, CpuLane lane)
    : manifest_(std::move(manifest)), lane_(std::move(lane)), replay_(folder, manifest_) {}

const ffi::Tensor& Runner::Input(int64_t index) const {
  if (index < 0 || index >= static_cast<int64_t>(replay_.inputs().size())) {
    TVM_FFI_THROW(ValueError) << "no input " << index << "; the model has "
                              << replay_.inputs().size();
  }
  return replay_.inputs()[index];
}

void Runner::SetInput(int64_t index, const void* data, size_t bytes) {
  const ffi::Tensor& input = Input(index);
  const size_t expected = ffi::GetDataSize(*input.GetDLTensorPtr());
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
  if (!same_type || !same_shape || tensor.device.device_type != kDLCPU ||
      !ffi::IsContiguous(tensor)) {
    TVM_FFI_THROW(ValueError) << "input '" << manifest_.inputs[index].name
                              << "' takes a contiguous CPU tensor of the model's own shape and type";
  }
  SetInput(index, static_cast<const char*>(tensor.data) + tensor.byte_offset, ffi::GetDataSize(tensor));
}

void Runner::Run() {
  const CpuLane::Guard guard(lane_);
  replay_.Run();
  ran_ = true;
}

const ffi::Tensor& Runner::GetOutput(int64_t index) const {
  if (!ran_) TVM_FFI_THROW(ValueError) << "no outputs yet; run the model first";
  if (index < 0 || index >= static_cast<int64_t>(replay_.outputs().size())) {
    TVM_FFI_THROW(ValueError) << "no output " << index << "; the model has "
                              << replay_.outputs().size();
  }
  return replay_.outputs()[index];
}

std::vector<double> Runner::Time(int64_t repeat, double seconds) {
  const CpuLane::Guard guard(lane_);
  std::vector<double> latencies_us;
  const Clock::time_point begin = Clock::now();
  while (static_cast<int64_t>(latencies_us.size()) < repeat) {
    const Clock::time_point start = Clock::now();
    replay_.Run();
    latencies_us.push_back(MicrosecondsSince(start));
    if (seconds > 0 && MicrosecondsSince(begin) >= seconds * 1e6) break;
  }
  ran_ = ran_ || !latencies_us.empty();
  return latencies_us;
}

std::string Runner::Profile() {
  const CpuLane::Guard guard(lane_);
  const bool gpu = manifest_.uses_gpu;
  replay_.Run();
  Recorder recorder;
  if (gpu) TvmFunction("syncnas.opencl.profile_start")();
  const int64_t start_ns = opencl::HostNow();
  std::string problem, queue = "[]";
  try {
    replay_.Run(&recorder);
  } catch (const ffi::Error& error) {
    problem = error.message();
  }
  if (gpu) {  // in every case: a recording queue left behind would slow later runs down
    queue = TvmFunction("syncnas.opencl.profile_stop")().cast<std::string>();
  }
  if (!problem.empty()) TVM_FFI_THROW(RuntimeError) << problem;
  ran_ = true;
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
  object.Set(ffi::String("weights"), static_cast<int64_t>(replay_.weights()));
  return json::Stringify(object);
}

}  // namespace syncnas::runner
