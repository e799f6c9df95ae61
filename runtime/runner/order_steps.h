// SPDX-License-Identifier: Apache-2.0
//
// Decides, for a captured run, where the host waits for the GPU's queue and what shares memory.
#pragma once

#include <vector>

#include "steps.h"

namespace syncnas::runner {

// Sets wait_for, waited_for and wait_at_end: the CPU lane waits for what it reads, as late as it
// can, and at the end for all that is queued.
void PlaceWaits(Steps& steps);

// Several memories of the run take turns in one slot.
struct MemoryPlan {
  std::vector<Memory> slots;
  std::vector<int> slot_of;  // by memory; -1: never written
};

// Linear scan: a memory gets the smallest free slot of its kind that is large enough, else the
// largest free one grows. `steps` have their waits. With `mapped`, the host keeps buffers mapped
// (transfers.h): what it reads until it has waited for that, what it writes from run to run.
MemoryPlan PlanMemory(const Steps& steps, bool mapped);

}  // namespace syncnas::runner
