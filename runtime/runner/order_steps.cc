// SPDX-License-Identifier: Apache-2.0
#include "order_steps.h"

#include <algorithm>
#include <limits>
#include <string>

namespace syncnas::runner {

namespace {

constexpr int kNever = std::numeric_limits<int>::max();

int Count(const Steps& steps) { return static_cast<int>(steps.steps.size()); }

// As the compiler names kernels that write their rows beside those of the other lane.
bool LeavesRows(const Step& step) { return step.name.find("_leaving_rows") != std::string::npos; }

// The first step before which the host knows that queued step `i` has ended.
int KnownDone(const Steps& steps, int i) {
  // Waits cover more and more of the queue: the first that covers `i`.
  for (int at = i + 1; at < Count(steps); ++at) {
    if (steps.steps[at].wait_for >= i) return at;
  }
  return kNever;
}

// By memory: the first step at which something else may be kept there.
std::vector<int> FreeFrom(const Steps& steps, bool mapped) {
  std::vector<int> free_from(steps.memories.size(), 0);
  for (int i = 0; i < Count(steps); ++i) {
    const Step& step = steps.steps[i];
    for (const Operand& operand : step.operands) {
      if (operand.value < 0) continue;
      const int id = steps.values[operand.value].memory;
      const Memory& memory = steps.memories[id];
      // The queue keeps its own order; only the host has to know that it is done.
      const bool by_host = memory.host || (mapped && step.kind == StepKind::kRead);
      const int from = step.queued() && by_host ? KnownDone(steps, i) : i + 1;
      free_from[id] = std::max(free_from[id], from);
    }
  }
  for (const Operand& output : steps.outputs) {
    if (output.value >= 0) free_from[steps.values[output.value].memory] = kNever;
  }
  return free_from;
}

class Scan {
 public:
  Scan(const Steps& steps, bool mapped)
      : steps_(steps), mapped_(mapped), free_from_(FreeFrom(steps, mapped)) {
    plan_.slot_of.assign(steps.memories.size(), -1);
  }

  MemoryPlan Run() {
    // An input may be written at any time between runs.
    for (int value : steps_.inputs) Add(steps_.values[value].memory, kNever);
    // What a write fills is mapped when a run begins: no kernel may use it for something else before.
    for (const Step& step : steps_.steps) {
      if (!mapped_ || step.kind != StepKind::kWrite || step.rows.count > 0) continue;
      Add(steps_.values[step.operands[1].value].memory, kNever);
    }
    for (int i = 0; i < Count(steps_); ++i) {
      for (const Operand& operand : steps_.steps[i].operands) {
        if (operand.value < 0) continue;
        const int memory = steps_.values[operand.value].memory;
        if (plan_.slot_of[memory] < 0) Place(memory, i);
      }
    }
    return std::move(plan_);
  }

 private:
  void Place(int memory, int step) {
    const Memory& wanted = steps_.memories[memory];
    int best = -1;
    for (int i = 0; i < static_cast<int>(plan_.slots.size()); ++i) {
      const Memory& slot = plan_.slots[i];
      if (until_[i] > step || slot.host != wanted.host || slot.device != wanted.device) continue;
      if (best < 0 || Better(slot.bytes, plan_.slots[best].bytes, wanted.bytes)) best = i;
    }
    if (best < 0) {
      Add(memory, free_from_[memory]);
      return;
    }
    plan_.slots[best].bytes = std::max(plan_.slots[best].bytes, wanted.bytes);
    plan_.slot_of[memory] = best;
    until_[best] = free_from_[memory];
  }

  static bool Better(size_t bytes, size_t than, size_t wanted) {
    if ((bytes >= wanted) != (than >= wanted)) return bytes >= wanted;
    return bytes >= wanted ? bytes < than : bytes > than;
  }

  void Add(int memory, int until) {
    plan_.slot_of[memory] = static_cast<int>(plan_.slots.size());
    plan_.slots.push_back(steps_.memories[memory]);
    until_.push_back(until);
  }

  const Steps& steps_;
  const bool mapped_;
  const std::vector<int> free_from_;
  MemoryPlan plan_;
  std::vector<int> until_;  // by slot: taken before that step
};

}  // namespace

void PlaceWaits(Steps& steps) {
  std::vector<int> written_by(steps.memories.size(), -1);  // by memory: the queued step
  // By value that was handed over: the one until then. Later ones write other rows of its memory.
  constexpr int kUnknown = -2;
  std::vector<int> handed_by(steps.values.size(), kUnknown);
  int waited = -1, last = -1;
  for (int i = 0; i < Count(steps); ++i) {
    Step& step = steps.steps[i];
    for (const Operand& operand : step.operands) {
      if (operand.value < 0) continue;
      int& writer = written_by[steps.values[operand.value].memory];
      if (step.kind == StepKind::kCopyRows && operand.written) {
        // The other rows may still be being written: who reads them has to wait for that. But what
        // writes all rows has to end before.
        if (writer > waited && !LeavesRows(steps.steps[writer])) {
          step.wait_for = std::max(step.wait_for, writer);
        }
        continue;
      }
      if (step.kind == StepKind::kHandOver) {
        if (&operand == &step.operands[0]) handed_by[step.operands[1].value] = writer;
        continue;
      }
      const int handed = handed_by[operand.value];
      const int made = handed == kUnknown ? writer : handed;
      if (operand.written) {
        writer = step.queued() ? i : -1;
      } else if (step.by_host() && made > waited) {
        step.wait_for = std::max(step.wait_for, made);
      }
    }
    if (step.wait_for >= 0) {
      waited = step.wait_for;
      steps.steps[waited].waited_for = true;
    }
    if (step.queued()) last = i;
  }
  if (last > waited) {
    steps.wait_at_end = last;
    steps.steps[last].waited_for = true;
  }
}

MemoryPlan PlanMemory(const Steps& steps, bool mapped) { return Scan(steps, mapped).Run(); }

}  // namespace syncnas::runner
