// SPDX-License-Identifier: Apache-2.0
//
// OpenCL C source, built for one device as its kernels are needed, and their kernel objects.
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
  // Every kernel becomes an OpenCL program of its own at its first launch, and all are called alike
  // there: a driver that keeps what it compiled (PoCL, and every mobile one) finds a kernel again
  // whatever model it comes from. A kernel that the code does not mark is built with all of it.
  Program(Device& device, std::string code);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // A new kernel object, the caller's own.
  cl_kernel Create(const std::string& name);

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
  cl_kernel CreateLocked(const std::string& name);

  Device& device_;
  std::mutex mutex_;
  const std::map<std::string, std::string> sources_;  // by kernel
  const std::string code_;
  std::map<std::string, cl_program> programs_;
  std::map<std::string, std::vector<cl_kernel>> idle_;
};

}  // namespace syncnas::opencl
