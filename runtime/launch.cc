// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

#include <algorithm>

#include "boundary.h"
#include "clock_sync.h"
#include "device.h"
#include "device_api.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

thread_local LaunchRecorder* current_recorder = nullptr;

std::string ShapeText(const std::array<size_t, 3>& sizes) {
  return std::to_string(sizes[0]) + "x" + std::to_string(sizes[1]) + "x" + std::to_string(sizes[2]);
}

[[noreturn]] void ThrowLaunchError(cl_int code, const Device& device, const std::string& name,
                                   cl_kernel kernel, const LaunchShape& shape) {
  size_t kernel_limit = 0;
  CL().clGetKernelWorkGroupInfo(kernel, device.id(), kClKernelWorkGroupSize, sizeof(kernel_limit),
                                &kernel_limit, nullptr);
  ThrowCallError(code, {"clEnqueueNDRangeKernel", device.name(), name,
                        "global size " + ShapeText(shape.global) + ", work-group size " +
                            ShapeText(shape.local) + "; this kernel can have " +
                            std::to_string(kernel_limit) + " work-items in a group here"});
}

}  // namespace

uint64_t EnqueueKernel(Stream& stream, cl_kernel kernel, const std::string* name,
                       const LaunchShape& shape) {
  uint64_t number = 0;
  const auto enqueue = [&](cl_command_queue queue, cl_event* event) {
    return CL().clEnqueueNDRangeKernel(queue, kernel, static_cast<cl_uint>(shape.dimensions), nullptr,
                                       shape.global.data(), shape.local.data(), 0, nullptr, event);
  };
  const cl_int code = stream.SubmitNumbered(name, 0, enqueue, &number);
  if (code != kClSuccess) ThrowLaunchError(code, stream.device(), *name, kernel, shape);
  return number;
}

Launch::~Launch() {
  if (!ShuttingDown()) CL().clReleaseKernel(kernel_);
}

void Launch::Enqueue(Stream& stream) const {
  const uint64_t number = EnqueueKernel(stream, kernel_, name_, shape_);
  for (Buffer* buffer : buffers_) buffer->MarkUsed(stream.id(), number);
}

namespace {

// syncnas.opencl.enqueue_us(launch, rounds): what the host thread pays per launch that is enqueued again,
// in microseconds, the median of some rounds. `launch` is a function that launches kernels.
double EnqueueUs(const ffi::Function& launch, int64_t rounds) {
  std::vector<std::unique_ptr<Launch>> launches;
  {
    LaunchRecorder recorder;
    WithoutExceptions(launch)();
    launches = std::move(recorder.launches);
  }
  if (launches.empty() || rounds < 1) {
    TVM_FFI_THROW(ValueError) << "OpenCL: nothing was launched, there is nothing to time";
  }
  Stream& stream = OpenDevice(CurrentDeviceIndex()).CurrentStream();
  std::vector<double> samples;
  for (int64_t i = 0; i < rounds; ++i) {
    stream.Finish();
    const int64_t start_ns = HostNow();
    for (const auto& one : launches) one->Enqueue(stream);
    const auto count = static_cast<double>(launches.size());
    samples.push_back(static_cast<double>(HostNow() - start_ns) / 1e3 / count);
  }
  stream.Finish();
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

TVM_FFI_STATIC_INIT_BLOCK() { DefineGlobals().def("syncnas.opencl.enqueue_us", EnqueueUs); }

}  // namespace

LaunchRecorder::LaunchRecorder() { current_recorder = this; }
LaunchRecorder::~LaunchRecorder() { current_recorder = nullptr; }
LaunchRecorder* LaunchRecorder::Current() { return current_recorder; }

}  // namespace syncnas::opencl
