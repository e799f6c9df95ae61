// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <utility>

#include "device.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

// TVM's code generator puts this line before each kernel's source.
const char kSeparator[] = "// Function: ";

std::vector<std::pair<std::string, std::string>> SplitByKernel(const std::string& source) {
  std::vector<std::pair<std::string, std::string>> parts;
  size_t begin = source.find(kSeparator);
  while (begin != std::string::npos) {
    const size_t name = begin + sizeof(kSeparator) - 1;
    const size_t line_end = std::min(source.find('\n', name), source.size());
    const size_t next = source.find(kSeparator, line_end);
    parts.emplace_back(source.substr(name, line_end - name),
                       source.substr(line_end, next == std::string::npos ? next : next - line_end));
    begin = next;
  }
  return parts;
}

std::string BuildLog(cl_program program, const Device& device) {
  size_t bytes = 0;
  CL().clGetProgramBuildInfo(program, device.id(), kClProgramBuildLog, 0, nullptr, &bytes);
  std::string log(bytes, '\0');
  CL().clGetProgramBuildInfo(program, device.id(), kClProgramBuildLog, bytes, log.data(), nullptr);
  log.resize(std::min(log.find('\0'), log.size()));
  return log;
}

// The built program, or nullptr with *code and *log set.
cl_program Build(const Device& device, const std::string& source, cl_int* code, std::string* log) {
  const char* text = source.data();
  const size_t length = source.size();
  cl_program program =
      CL().clCreateProgramWithSource(device.context(), 1, &text, &length, code);
  Check(*code, "clCreateProgramWithSource", device.name());
  const cl_device_id id = device.id();
  *code = CL().clBuildProgram(program, 1, &id, "", nullptr, nullptr);
  if (*code == kClSuccess) return program;
  *log = BuildLog(program, device);
  CL().clReleaseProgram(program);
  return nullptr;
}

}  // namespace

Program::Program(Device& device, const std::string& source) : device_(device) {
  cl_int code = kClSuccess;
  std::string log;
  if (cl_program whole = Build(device, source, &code, &log)) {
    programs_.push_back(whole);
    return;
  }
  const auto parts = SplitByKernel(source);
  if (parts.empty()) ThrowCallError(code, {"clBuildProgram", device.name(), "", "\n" + log});
  for (const auto& [name, part] : parts) {
    cl_program program = Build(device, part, &code, &log);
    if (program == nullptr) {
      ReleaseAll();  // the destructor does not run for an object whose constructor throws
      ThrowCallError(code, {"clBuildProgram", device.name(), name, "the compiler says:\n" + log});
    }
    programs_.push_back(program);
    home_[name] = program;
  }
}

Program::~Program() { ReleaseAll(); }

void Program::ReleaseAll() {
  if (ShuttingDown()) return;
  for (const auto& [name, kernels] : idle_) {
    for (cl_kernel kernel : kernels) CL().clReleaseKernel(kernel);
  }
  for (cl_program program : programs_) CL().clReleaseProgram(program);
}

cl_kernel Program::Take(const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<cl_kernel>& idle = idle_[name];
  if (idle.empty()) return Create(name);
  cl_kernel kernel = idle.back();
  idle.pop_back();
  return kernel;
}

void Program::Return(const std::string& name, cl_kernel kernel) {
  std::lock_guard<std::mutex> lock(mutex_);
  idle_[name].push_back(kernel);
}

cl_kernel Program::Create(const std::string& name) {
  const auto separate = home_.find(name);
  cl_program program = separate != home_.end() ? separate->second : programs_.front();
  cl_int code = kClSuccess;
  cl_kernel kernel = CL().clCreateKernel(program, name.c_str(), &code);
  if (code != kClSuccess) ThrowCallError(code, {"clCreateKernel", device_.name(), name});
  return kernel;
}

}  // namespace syncnas::opencl
