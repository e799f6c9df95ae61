// SPDX-License-Identifier: Apache-2.0
//
// Device memory that is never given back while it may be wanted again.
//
// Creating, mapping or releasing a buffer can stall until the device is idle (1.7 ms were measured
// in the middle of a model), so freed buffers wait in free lists, one per size class.
//
// A buffer goes back to the pool while commands that use it are still queued; that is safe:
// - its next user is a command, and a queue runs its commands in order; or it is the host, which first
//   asks whether the last command that used the buffer has ended;
// - a user in another stream gets a barrier first. For that, each buffer remembers its stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "opencl_types.h"

namespace syncnas::opencl {

class Device;
class Stream;

// What a TVM data pointer on an OpenCL device points at.
class Buffer {
 public:
  Buffer(Device& device, cl_mem memory, size_t bytes, void* shared, bool is_image = false)
      : device(device), memory(memory), bytes(bytes), shared(shared), is_image(is_image) {}

  Device& device;
  const cl_mem memory;
  const size_t bytes;
  // Where the host may read and write the buffer while no command uses it; null where it may not.
  void* const shared;
  // An OpenCL image: kernels read it, and nothing else can be done with it.
  const bool is_image;

  // To be called for every command that uses the buffer, with its number in the stream; before the
  // command is submitted without one, and everything in the stream counts as a use then.
  void MarkUsed(uint64_t stream_id, uint64_t number = kUnknown);

  // The number of the last command in `stream` that the buffer's content depends on.
  uint64_t LastUse(Stream& stream) const;

 private:
  friend class BufferPool;
  static constexpr uint64_t kUnused = 0, kUnknown = UINT64_MAX;
  static constexpr uint64_t kSeveralStreams = UINT64_MAX;
  std::atomic<uint64_t> used_in_{kUnused};
  std::atomic<uint64_t> last_use_{0};  // where one stream uses it
};

struct PoolStats {
  size_t live_bytes = 0;       // handed out
  size_t cached_bytes = 0;     // waiting in the free lists
  size_t buffers_created = 0;  // since the device was opened
};

class BufferPool {
 public:
  explicit BufferPool(Device& device) : device_(device) {}

  // A buffer of at least `bytes`, ready for commands in `stream`. When memory runs out the free
  // lists are given back and the allocation is tried once more.
  Buffer* Allocate(size_t bytes, Stream& stream);
  // An image with the contents of `data`, `bytes` in all. Images are not pooled: Free gives them back
  // to the driver, which keeps them until the last command that reads them has ended.
  Buffer* AllocateImage(const ImageFormat& format, const ImageDescription& image, const void* data,
                        size_t bytes);
  void Free(Buffer* buffer);
  // Gives everything in the free lists back to the driver.
  void Trim();
  PoolStats Stats();

  // Sizes are rounded up to quarters of a power of two, and to whole pages: at most a quarter is
  // wasted, and buffers of similar size can stand in for each other.
  static size_t SizeClass(size_t bytes);

 private:
  Buffer* TakeFree(size_t size);
  // What `create` makes, which is tried again with the free lists given back where memory runs out.
  template <typename Creator>
  Buffer* CreateOrTrim(size_t bytes, const char* call, const Creator& create);
  Buffer* Create(size_t size, cl_int* code);
  void Destroy(Buffer* buffer);
  void OrderAfterLastUse(Buffer* buffer, Stream& stream);
  [[noreturn]] void ThrowOutOfMemory(size_t bytes, const char* call, cl_int code);

  Device& device_;
  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<Buffer*>> free_;
  PoolStats stats_;
};

}  // namespace syncnas::opencl
