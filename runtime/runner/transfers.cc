// SPDX-License-Identifier: Apache-2.0
#include "transfers.h"

#include <cstring>
#include <string>
#include <utility>

#include "../copies.h"
#include "../opencl_loader.h"
#include "queue.h"

namespace syncnas::runner {

namespace {

using opencl::CL;
using opencl::kClFalse;

// As the queue's records name them.
const std::string* const kWrite = opencl::Intern("write");
const std::string* const kRead = opencl::Intern("read");

}  // namespace

void Transfers::Add(int number, const Step& step, opencl::Buffer* buffer, size_t offset, char* host,
                    size_t bytes) {
  transfers_[number] = {&step, buffer, offset, host, bytes};
}

void Transfers::MapWrites() {
  if (!mapped_) return;
  for (auto& [number, transfer] : transfers_) {
    if (!transfer.write() || transfer.mapping != nullptr) continue;
    transfer.mapping = opencl::Map(transfer.buffer, transfer.offset, transfer.bytes, false, Queue(),
                                   &transfer.ready);
  }
}

opencl::Pending Transfers::Start(int number) {
  Transfer& transfer = transfers_.at(number);
  if (!mapped_) return Enqueue(transfer);
  opencl::Pending done;
  if (transfer.write()) {
    const opencl::Pending ready = std::exchange(transfer.ready, {});
    CheckQueue(Queue().Wait(ready), "clWaitForEvents", *transfer.step);
    std::memcpy(transfer.mapping, transfer.host, transfer.bytes);
    Unmap(transfer);
  } else {
    transfer.mapping = opencl::Map(transfer.buffer, transfer.offset, transfer.bytes, true, Queue(),
                                   &done);
    reads_.push_back(number);
  }
  return done;
}

opencl::Pending Transfers::Enqueue(const Transfer& transfer) {
  const bool write = transfer.write();
  opencl::Pending done;
  const auto enqueue = [&](opencl::cl_command_queue queue, opencl::cl_event* event) {
    const auto& call = CL();
    return write ? call.clEnqueueWriteBuffer(queue, transfer.buffer->memory, kClFalse,
                                             transfer.offset, transfer.bytes, transfer.host, 0,
                                             nullptr, event)
                 : call.clEnqueueReadBuffer(queue, transfer.buffer->memory, kClFalse,
                                            transfer.offset, transfer.bytes, transfer.host, 0,
                                            nullptr, event);
  };
  opencl::Stream& queue = Queue();
  const auto code = queue.Submit(write ? kWrite : kRead, transfer.bytes, enqueue, &done);
  CheckQueue(code, write ? "clEnqueueWriteBuffer" : "clEnqueueReadBuffer", *transfer.step);
  transfer.buffer->MarkUsed(queue.id(), done.number);
  return done;
}

void Transfers::Fetch(int number) {
  size_t fetched = 0;
  while (fetched < reads_.size() && reads_[fetched] <= number) {
    Transfer& transfer = transfers_.at(reads_[fetched++]);
    std::memcpy(transfer.host, transfer.mapping, transfer.bytes);
    Unmap(transfer);
  }
  reads_.erase(reads_.begin(), reads_.begin() + static_cast<std::ptrdiff_t>(fetched));
}

void Transfers::Unmap() {
  for (auto& [number, transfer] : transfers_) {
    if (transfer.ready.event != nullptr) CL().clReleaseEvent(transfer.ready.event);
    transfer.ready = {};
    if (transfer.mapping != nullptr) Unmap(transfer);
  }
  reads_.clear();
}

void Transfers::Unmap(Transfer& transfer) {
  opencl::Unmap(transfer.buffer, std::exchange(transfer.mapping, nullptr), Queue());
}

}  // namespace syncnas::runner
