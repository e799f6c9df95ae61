// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <utility>

#include "device.h"
#include "kernel_source.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

// What every kernel is called in its own program.
const char kKernelName[] = "kernel_main";

std::string BuildLog(cl_program program, const Device& device) {
  size_t bytes = 0;
  CL().clGetProgramBuildInfo(program, device.id(), kClProgramBuildLog, 0, nullptr, &bytes);
  std::string log(bytes, '\0');
  CL().clGetProgramBuildInfo(program, device.id(), kClProgramBuildLog, bytes, log.data(), nullptr);
  log.resize(std::min(log.find('\0'), log.size()));
  return log;
}

cl_program Build(const Device& device, const std::string& source, const std::string& kernel) {
  const char* text = source.data();
  const size_t length = source.size();
  cl_int code = kClSuccess;
  cl_program program = CL().clCreateProgramWithSource(device.context(), 1, &text, &length, &code);
  Check(code, "clCreateProgramWithSource", device.name());
  const cl_device_id id = device.id();
  code = CL().clBuildProgram(program, 1, &id, "", nullptr, nullptr);
  if (code == kClSuccess) return program;
  const std::string log = BuildLog(program, device);
  CL().clReleaseProgram(program);
  ThrowCallError(code, {"clBuildProgram", device.name(), kernel, "the compiler says:\n" + log});
}

}  // namespace

Program::Program(Device& device, std::string code)
    : device_(device), sources_(SplitByKernel(code)), code_(std::move(code)) {}

Program::~Program() {
  if (ShuttingDown()) return;
  for (const auto& [name, kernels] : idle_) {
    for (cl_kernel kernel : kernels) CL().clReleaseKernel(kernel);
  }
  for (const auto& [name, program] : programs_) {
    if (program != nullptr) CL().clReleaseProgram(program);
  }
}

cl_kernel Program::Take(const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<cl_kernel>& idle = idle_[name];
  if (idle.empty()) return CreateLocked(name);
  cl_kernel kernel = idle.back();
  idle.pop_back();
  return kernel;
}

void Program::Return(const std::string& name, cl_kernel kernel) {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_[name].push_back(kernel);
}

cl_kernel Program::Create(const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  return CreateLocked(name);
}

cl_kernel Program::CreateLocked(const std::string& name) {
  const auto own = sources_.find(name);
  const bool is_marked = own != sources_.end();
  const std::string called = is_marked ? kKernelName : name;
  cl_program& program = programs_[name];
  if (program == nullptr) {
    program = Build(device_, is_marked ? Renamed(own->second, name, called) : code_, name);
  }
  cl_int code = kClSuccess;
  cl_kernel kernel = CL().clCreateKernel(program, called.c_str(), &code);
  if (code != kClSuccess) ThrowCallError(code, {"clCreateKernel", device_.name(), name});
  return kernel;
}

}  // namespace syncnas::opencl
