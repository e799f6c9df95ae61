// SPDX-License-Identifier: Apache-2.0
#include "buffer_pool.h"

#include <tvm/ffi/error.h>

#include <algorithm>

#include "device.h"
#include "opencl_error.h"
#include "opencl_loader.h"
#include "stream.h"

namespace syncnas::opencl {

namespace {
constexpr size_t kPage = 4096;
}

size_t BufferPool::SizeClass(size_t bytes) {
  size_t step = kPage;
  while (step * 8 <= bytes) step *= 2;  // bytes / step is in [4, 8): quarters of a power of two
  return std::max(step, (bytes + step - 1) / step * step);
}

Buffer* BufferPool::Allocate(size_t bytes, Stream& stream) {
  const DeviceLimits& limits = device_.limits();
  if (bytes > limits.max_allocation) ThrowOutOfMemory(bytes, "clCreateBuffer", kClInvalidBufferSize);
  // Near the limit the rounding must not be what makes an allocation fail.
  const size_t size = std::min<size_t>(SizeClass(bytes), limits.max_allocation);
  if (Buffer* buffer = TakeFree(size)) {
    OrderAfterLastUse(buffer, stream);
    return buffer;
  }
  return CreateOrTrim(bytes, "clCreateBuffer", [&](cl_int* code) { return Create(size, code); });
}

template <typename Creator>
Buffer* BufferPool::CreateOrTrim(size_t bytes, const char* call, const Creator& create) {
  cl_int code = kClSuccess;
  Buffer* buffer = create(&code);
  if (buffer == nullptr) {
    // Memory that queued commands still use comes back only when they have ended.
    device_.FinishAll();
    Trim();
    buffer = create(&code);
  }
  if (buffer == nullptr) ThrowOutOfMemory(bytes, call, code);
  return buffer;
}

Buffer* BufferPool::AllocateImage(const ImageFormat& format, const ImageDescription& image,
                                  const void* data, size_t bytes) {
  Buffer* created = CreateOrTrim(bytes, "clCreateImage", [&](cl_int* code) -> Buffer* {
    cl_mem memory = CL().clCreateImage(device_.context(), kClMemReadOnly | kClMemCopyHostPtr, &format,
                                       &image, const_cast<void*>(data), code);
    if (IsOutOfMemory(*code)) return nullptr;
    Check(*code, "clCreateImage", device_.name());
    return new Buffer(device_, memory, bytes, nullptr, true);
  });
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.live_bytes += bytes;
  return created;
}

Buffer* BufferPool::TakeFree(size_t size) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto found = free_.find(size);
  if (found == free_.end() || found->second.empty()) return nullptr;
  Buffer* buffer = found->second.back();  // the last one freed is the likeliest to be in a cache
  found->second.pop_back();
  stats_.cached_bytes -= size;
  stats_.live_bytes += size;
  return buffer;
}

Buffer* BufferPool::Create(size_t size, cl_int* code) {
  // Shared: a buffer in fine-grained virtual memory, which the host may touch without mapping it.
  void* shared = nullptr;
  if (device_.shares_memory()) {
    shared = CL().clSVMAlloc(device_.context(), kClMemReadWrite | kClMemSvmFineGrainBuffer, size, 0);
  }
  // Else ALLOC_HOST_PTR: memory that the CPU can reach too. Where both share the DRAM, mapping it then
  // moves nothing, and copies need no bounce buffers.
  const cl_bitfield where = shared != nullptr ? kClMemUseHostPtr : kClMemAllocHostPtr;
  cl_mem memory =
      CL().clCreateBuffer(device_.context(), kClMemReadWrite | where, size, shared, code);
  if (*code != kClSuccess && shared != nullptr) CL().clSVMFree(device_.context(), shared);
  if (IsOutOfMemory(*code)) return nullptr;
  Check(*code, "clCreateBuffer", device_.name());
  auto* buffer = new Buffer(device_, memory, size, shared);
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.live_bytes += size;
  stats_.buffers_created += 1;
  return buffer;
}

void Buffer::MarkUsed(uint64_t stream_id, uint64_t number) {
  // Two threads may use a buffer at the same time: the later command counts.
  uint64_t last = last_use_.load(std::memory_order_relaxed);
  while (last < number &&
         !last_use_.compare_exchange_weak(last, number, std::memory_order_relaxed)) {
  }
  const uint64_t before = used_in_.load(std::memory_order_relaxed);
  if (before == stream_id) return;
  used_in_.store(before == kUnused ? stream_id : kSeveralStreams, std::memory_order_relaxed);
}

uint64_t Buffer::LastUse(Stream& stream) const {
  const uint64_t used_in = used_in_.load(std::memory_order_relaxed);
  if (used_in == kUnused) return 0;
  const uint64_t last = last_use_.load(std::memory_order_relaxed);
  if (used_in == stream.id() && last != kUnknown) return last;
  return stream.Submitted();  // whoever used it elsewhere has let this stream wait for that
}

void BufferPool::OrderAfterLastUse(Buffer* buffer, Stream& stream) {
  const uint64_t used_in = buffer->used_in_.load(std::memory_order_relaxed);
  if (used_in == Buffer::kUnused || used_in == stream.id()) return;
  device_.ForEachStream([&](Stream& other) {
    if (used_in == Buffer::kSeveralStreams || used_in == other.id()) stream.WaitFor(other);
  });
  // From here on, being ordered after this stream means being ordered after all earlier uses.
  buffer->last_use_.store(stream.Submitted(), std::memory_order_relaxed);
  buffer->used_in_.store(stream.id(), std::memory_order_relaxed);
}

void BufferPool::Free(Buffer* buffer) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stats_.live_bytes -= buffer->bytes;
    if (!buffer->is_image) {
      stats_.cached_bytes += buffer->bytes;
      free_[buffer->bytes].push_back(buffer);
      return;
    }
  }
  Destroy(buffer);
}

void BufferPool::Destroy(Buffer* buffer) {
  CL().clReleaseMemObject(buffer->memory);
  if (buffer->shared != nullptr) CL().clSVMFree(device_.context(), buffer->shared);
  delete buffer;
}

void BufferPool::Trim() {
  std::unordered_map<size_t, std::vector<Buffer*>> unwanted;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    unwanted.swap(free_);
    stats_.cached_bytes = 0;
  }
  // The driver keeps a buffer until the last command on it has ended, but not what it shares.
  if (device_.shares_memory()) device_.FinishAll();
  for (const auto& [size, buffers] : unwanted) {
    for (Buffer* buffer : buffers) Destroy(buffer);
  }
}

PoolStats BufferPool::Stats() {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void BufferPool::ThrowOutOfMemory(size_t bytes, const char* call, cl_int code) {
  const DeviceLimits& limits = device_.limits();
  const PoolStats stats = Stats();
  TVM_FFI_THROW(MemoryError) << "OpenCL: device '" << device_.name() << "' cannot allocate " << bytes
                             << " bytes: " << call << " failed with " << ErrorName(code)
                             << "; the largest single allocation is " << limits.max_allocation
                             << " bytes, the device has " << limits.global_memory
                             << " bytes in all, and " << stats.live_bytes
                             << " bytes are in use by this process";
}

}  // namespace syncnas::opencl
