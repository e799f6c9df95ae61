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
    if (!transfer.write() || transfer.some_rows() || transfer.mapping != nullptr) continue;
    transfer.mapping = opencl::Map(transfer.buffer, transfer.offset, transfer.bytes, false, Queue(),
                                   &transfer.ready);
  }
}

opencl::Pending Transfers::Start(int number) {
  Transfer& transfer = transfers_.at(number);
  if (!mapped_ || transfer.some_rows()) return Enqueue(transfer);
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
    if (transfer.some_rows()) return EnqueueRows(transfer, queue, event);
    const auto& call = CL();
    return write ? call.clEnqueueWriteBuffer(queue, transfer.buffer->memory, kClFalse,
                                             transfer.offset, transfer.bytes, transfer.host, 0,
                                             nullptr, event)
                 : call.clEnqueueReadBuffer(queue, transfer.buffer->memory, kClFalse,
                                            transfer.offset, transfer.bytes, transfer.host, 0,
                                            nullptr, event);
  };
  opencl::Stream& queue = Queue();
  const opencl::Rows& rows = transfer.step->rows;
  const size_t bytes = transfer.some_rows() ? rows.count * rows.bytes : transfer.bytes;
  const auto code = queue.Submit(write ? kWrite : kRead, bytes, enqueue, &done);
  CheckQueue(code, write ? "clEnqueueWriteBuffer" : "clEnqueueReadBuffer", *transfer.step);
  transfer.buffer->MarkUsed(queue.id(), done.number);
  return done;
}

opencl::cl_int Transfers::EnqueueRows(const Transfer& transfer, opencl::cl_command_queue queue,
                                      opencl::cl_event* event) {
  const opencl::Rows& rows = transfer.step->rows;
  const bool write = transfer.write();
  // A tensor as lines of its pitch, of which a part is moved; the buffer's and the host's side.
  const size_t offset = write ? rows.offset : rows.source_offset;
  const size_t host_offset = write ? rows.source_offset : rows.offset;
  const size_t pitch = write ? rows.pitch : rows.source_pitch;
  const size_t host_pitch = write ? rows.source_pitch : rows.pitch;
  const size_t at[3] = {offset, 0, 0}, host_at[3] = {host_offset, 0, 0};
  const size_t size[3] = {rows.bytes, rows.count, 1};
  const auto& call = CL();
  return write ? call.clEnqueueWriteBufferRect(queue, transfer.buffer->memory, kClFalse, at, host_at,
                                               size, pitch, 0, host_pitch, 0, transfer.host, 0,
                                               nullptr, event)
               : call.clEnqueueReadBufferRect(queue, transfer.buffer->memory, kClFalse, at, host_at,
                                              size, pitch, 0, host_pitch, 0, transfer.host, 0,
                                              nullptr, event);
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
