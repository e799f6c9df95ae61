// SPDX-License-Identifier: Apache-2.0
//
// The transfers of a captured run that move bytes. Neither kind waits for kernels:
//
// - as commands: host memory stays as it is until the queue has used it, so a write needs no copy
//   aside, and nobody waits for a read until its value is used.
// - by mapping, where the device's buffers are mapped (memory_kind.h): what a write fills is mapped
//   when a run ends, for the next; the host copies into it and unmaps it. A read maps behind the
//   kernel that makes its value, and the host copies that out when it has waited.
//
// Rows alone are always commands: the rest of their buffer is used by kernels in the meantime.
//
// Computing on a mapping instead would spare the copy, but drivers may map memory that the CPU does not
// cache (copies.h).
#pragma once

#include <cstddef>
#include <map>
#include <vector>

#include "../buffer_pool.h"
#include "../stream.h"
#include "steps.h"

namespace syncnas::runner {

class Transfers {
 public:
  explicit Transfers(bool mapped) : mapped_(mapped) {}

  // Step `number` is a transfer between `bytes` of host memory and a buffer, from `offset` on.
  void Add(int number, const Step& step, opencl::Buffer* buffer, size_t offset, char* host,
           size_t bytes);

  // Maps what writes fill, if that is how they are done; waits for nothing.
  void MapWrites();
  // Does the step or hands it to the queue. Returns its command, owned by the caller; no event where
  // there is nothing to wait for.
  opencl::Pending Start(int number);
  // To be called when the queue is known to have got through step `number`: values that were read
  // up to there are in host memory afterwards.
  void Fetch(int number);
  // Unmaps everything. Values that were being read are lost.
  void Unmap();

 private:
  struct Transfer {
    const Step* step;
    opencl::Buffer* buffer;
    size_t offset;
    char* host;
    size_t bytes;
    void* mapping = nullptr;     // where the buffer is mapped, if it is
    opencl::Pending ready = {};  // of a write: when the mapping may be touched
    bool write() const { return step->kind == StepKind::kWrite; }
    bool some_rows() const { return step->rows.count > 0; }
  };

  static opencl::Pending Enqueue(const Transfer& transfer);
  static opencl::cl_int EnqueueRows(const Transfer& transfer, opencl::cl_command_queue queue,
                                    opencl::cl_event* event);
  static void Unmap(Transfer& transfer);

  const bool mapped_;
  std::map<int, Transfer> transfers_;  // by step
  std::vector<int> reads_;             // mapped and not yet fetched, in order
};

}  // namespace syncnas::runner
