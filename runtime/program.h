// SPDX-License-Identifier: Apache-2.0
//
// OpenCL C source, built for one device, and its kernel objects.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "opencl_types.h"

namespace syncnas::opencl {

class Device;

class Program {
 public:
  // Builds the source. All kernels together are one OpenCL program: drivers spend most of a build on
  // what does not depend on its length (PoCL about 0.1 s). If that fails, kernel by kernel, to find
  // out which one is to blame; throws with its name and the compiler's log.
  Program(Device& device, const std::string& source);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Setting arguments and enqueuing are separate calls, so a kernel object must not be shared by
  // two threads that launch at the same time: each launch borrows one and gives it back as soon as
  // it is enqueued (which is when OpenCL has taken the arguments).
  class Loan {
   public:
    Loan(Program& program, const std::string& name)
        : program_(program), name_(name), kernel_(program.Take(name)) {}
    ~Loan() { program_.Return(name_, kernel_); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    cl_kernel get() const { return kernel_; }

   private:
    Program& program_;
    const std::string& name_;
    cl_kernel kernel_;
  };

 private:
  cl_kernel Take(const std::string& name);
  void Return(const std::string& name, cl_kernel kernel);
  cl_kernel Create(const std::string& name);
  void ReleaseAll();

  Device& device_;
  std::mutex mutex_;
  std::vector<cl_program> programs_;
  std::map<std::string, cl_program> home_;  // for kernels that were built separately
  std::map<std::string, std::vector<cl_kernel>> idle_;
};

}  // namespace syncnas::opencl
