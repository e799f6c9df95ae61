// SPDX-License-Identifier: Apache-2.0
//
// Keeps the CPU lane on the cores that the target names.
#pragma once

#include <vector>

namespace syncnas::runner {

class CpuLane {
 public:
  // `cpus` that this device does not have, or does not let us use, are left out; if none is left the
  // lane is not bound. Sets up TVM's thread pool for the calling thread.
  CpuLane(const std::vector<int>& cpus, int threads);
  // The threads and cores that the calling thread has.
  CpuLane() = default;

  const std::vector<int>& cpus() const { return cpus_; }
  int threads() const { return threads_; }

  // The calling thread stays on the lane's cores while this exists.
  class Guard {
   public:
    explicit Guard(const CpuLane& lane);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    std::vector<int> before_;
  };

 private:
  std::vector<int> cpus_;
  int threads_ = 0;
};

}  // namespace syncnas::runner
