// SPDX-License-Identifier: Apache-2.0
//
// Follows one run of the VM: when each kernel, transfer and lane function begins and ends.
#pragma once

#include <tvm/ffi/function.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace syncnas::runner {

class Recorder {
 public:
  Recorder();
  // To be given to the VM's set_instrument; keeps what it writes to alive.
  tvm::ffi::Function instrument() const;
  // A list of {name, region, start_ns, end_ns} in the order of the calls.
  std::string Json() const;

 private:
  struct Log;
  std::shared_ptr<Log> log_;
};

}  // namespace syncnas::runner
