// SPDX-License-Identifier: Apache-2.0
#include "cpu_lane.h"

#include <sched.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <algorithm>
#include <string>

#include "../boundary.h"

namespace syncnas::runner {

namespace {

// threading::ThreadGroup::AffinityMode of TVM: the threads share the cores that are listed.
constexpr int kShareListedCores = -3;
constexpr int kBigCores = 1;

std::vector<int> AllowedCores() {
  std::vector<int> cores;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

bool Bind(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : cores) {
    if (core >= 0 && core < CPU_SETSIZE) CPU_SET(core, &set);
  }
  return sched_setaffinity(0, sizeof(set), &set) == 0;
}

}  // namespace

CpuLane::CpuLane(const std::vector<int>& cpus, int threads) : threads_(std::max(1, threads)) {
  const std::vector<int> allowed = AllowedCores();
  for (int core : cpus) {
    if (std::find(allowed.begin(), allowed.end(), core) != allowed.end()) cpus_.push_back(core);
  }
  const auto configure = TvmFunction("runtime.config_threadpool");
  if (cpus_.empty()) {
    configure(kBigCores, threads_);
    return;
  }
  tvm::ffi::Array<tvm::ffi::String> names;
  for (int core : cpus_) names.push_back(std::to_string(core));
  configure(kShareListedCores, threads_, names);
}

CpuLane::Guard::Guard(const CpuLane& lane) {
  if (lane.cpus().empty()) return;
  before_ = AllowedCores();
  if (!Bind(lane.cpus())) before_.clear();
}

CpuLane::Guard::~Guard() {
  if (!before_.empty()) Bind(before_);
}

}  // namespace syncnas::runner
