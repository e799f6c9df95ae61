// SPDX-License-Identifier: Apache-2.0
#include "copies.h"

#include <tvm/ffi/error.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "device.h"
#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

const std::string* const kWrite = Intern("write");
const std::string* const kRead = Intern("read");
const std::string* const kCopy = Intern("copy");
const std::string* const kUnmap = Intern("unmap");

void CheckCopy(cl_int code, const char* call, const Device& device, size_t bytes) {
  if (code == kClSuccess) return;
  ThrowCallError(code, {call, device.name(), "", "a copy of " + std::to_string(bytes) + " bytes"});
}

void CheckIsBuffer(const Buffer& buffer) {
  if (!buffer.is_image) return;
  TVM_FFI_THROW(ValueError) << "OpenCL: a texture on device '" << buffer.device.name()
                            << "' cannot be copied, it is for kernels to read; keep the tensor that it "
                            << "was made of";
}

// Copying aside costs the host a second pass over the data. That is worth it unless there is nothing
// to wait for and the data is large, or it is so large that it can only be weights, which are
// uploaded before anything runs.
bool ShouldStage(size_t bytes, Stream& stream) {
  constexpr size_t kCheapToCopy = size_t{256} << 10;
  if (bytes > StagingPool::kLargestBlock) return false;
  return bytes <= kCheapToCopy || !stream.KnownIdle();
}

void WriteByCommand(Buffer* to, size_t offset, const void* from, size_t bytes, Stream& stream) {
  Device& device = to->device;
  const auto write_from = [&](const void* source) {
    return [=](cl_command_queue queue, cl_event* event) {
      return CL().clEnqueueWriteBuffer(queue, to->memory, kClFalse, offset, bytes, source, 0,
                                       nullptr, event);
    };
  };
  if (!ShouldStage(bytes, stream)) {
    const cl_int code = stream.SubmitAndWait(kWrite, bytes, write_from(from));
    return CheckCopy(code, "clEnqueueWriteBuffer", device, bytes);
  }
  std::unique_ptr<StagingPool::Block> block = device.staging().Take(bytes);
  std::memcpy(block->data.get(), from, bytes);
  Pending write;
  const cl_int code = stream.Submit(kWrite, bytes, write_from(block->data.get()), &write);
  CheckCopy(code, "clEnqueueWriteBuffer", device, bytes);
  to->MarkUsed(stream.id(), write.number);
  device.staging().ReturnAfter(std::move(block), write.event);
}

}  // namespace

void* Map(Buffer* buffer, size_t offset, size_t bytes, bool for_reading, Stream& stream,
          Pending* pending) {
  CheckIsBuffer(*buffer);
  const cl_bitfield flags = for_reading ? kClMapRead : kClMapWriteInvalidateRegion;
  void* data = nullptr;
  const auto map = [&](cl_command_queue queue, cl_event* event) {
    cl_int problem = kClSuccess;
    data = CL().clEnqueueMapBuffer(queue, buffer->memory, kClFalse, flags, offset, bytes, 0,
                                   nullptr, event, &problem);
    return problem;
  };
  const cl_int code = stream.Submit(for_reading ? kRead : kWrite, bytes, map, pending);
  CheckCopy(code, "clEnqueueMapBuffer", buffer->device, bytes);
  return data;
}

void Unmap(Buffer* buffer, void* data, Stream& stream) {
  uint64_t number = 0;
  const auto unmap = [&](cl_command_queue queue, cl_event* event) {
    return CL().clEnqueueUnmapMemObject(queue, buffer->memory, data, 0, nullptr, event);
  };
  const cl_int code = stream.SubmitNumbered(kUnmap, 0, unmap, &number, false);
  CheckCopy(code, "clEnqueueUnmapMemObject", buffer->device, buffer->bytes);
  buffer->MarkUsed(stream.id(), number);
}

void Write(Buffer* to, size_t offset, const void* from, size_t bytes, Stream& stream) {
  CheckIsBuffer(*to);
  if (stream.Recording()) return WriteByCommand(to, offset, from, bytes, stream);
  if (to->shared != nullptr && stream.HasEnded(to->LastUse(stream))) {
    std::memcpy(static_cast<char*>(to->shared) + offset, from, bytes);
  } else if (to->device.memory() == MemoryKind::kMapped && stream.KnownIdle()) {
    Pending mapped;
    void* data = Map(to, offset, bytes, false, stream, &mapped);
    CheckCopy(stream.Wait(mapped), "clWaitForEvents", to->device, bytes);
    std::memcpy(data, from, bytes);
    Unmap(to, data, stream);
  } else {
    WriteByCommand(to, offset, from, bytes, stream);
  }
}

void Read(Buffer* from, size_t offset, void* to, size_t bytes, Stream& stream) {
  CheckIsBuffer(*from);
  const bool recording = stream.Recording();
  if (from->shared != nullptr && !recording) {
    CheckCopy(stream.WaitUntilEnded(from->LastUse(stream)), "clWaitForEvents", from->device, bytes);
    std::memcpy(to, static_cast<const char*>(from->shared) + offset, bytes);
    return;
  }
  if (from->device.memory() == MemoryKind::kMapped && !recording) {
    Pending mapped;
    void* data = Map(from, offset, bytes, true, stream, &mapped);
    CheckCopy(stream.Wait(mapped), "clWaitForEvents", from->device, bytes);
    std::memcpy(to, data, bytes);
    Unmap(from, data, stream);
    return;
  }
  const cl_int code =
      stream.SubmitAndWait(kRead, bytes, [&](cl_command_queue queue, cl_event* event) {
        return CL().clEnqueueReadBuffer(queue, from->memory, kClFalse, offset, bytes, to, 0, nullptr,
                                        event);
      });
  CheckCopy(code, "clEnqueueReadBuffer", from->device, bytes);
}

void Copy(Buffer* from, size_t from_offset, Buffer* to, size_t to_offset, size_t bytes,
          Stream& stream) {
  CheckIsBuffer(*from);
  CheckIsBuffer(*to);
  uint64_t number = 0;
  const auto copy = [&](cl_command_queue queue, cl_event* event) {
    return CL().clEnqueueCopyBuffer(queue, from->memory, to->memory, from_offset, to_offset, bytes,
                                    0, nullptr, event);
  };
  CheckCopy(stream.SubmitNumbered(kCopy, bytes, copy, &number), "clEnqueueCopyBuffer", from->device, bytes);
  from->MarkUsed(stream.id(), number);
  to->MarkUsed(stream.id(), number);
}

}  // namespace syncnas::opencl
