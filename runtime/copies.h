// SPDX-License-Identifier: Apache-2.0
//
// Moving bytes between the host and buffers, and what each move waits for:
//
// - host to device: nothing. The data is copied aside (staging.h) and a non-blocking write joins the
//   in-order queue behind the kernels that are already there, so it also cannot overwrite what they
//   still read. A large write into an idle stream skips the copy and blocks for its own duration.
// - device to host: for what was enqueued in the same stream before, which is what the data depends
//   on; kernels that another thread enqueues behind the read are not waited for.
// - device to device: nothing.
//
// Where buffers are mapped (memory_kind.h), reads, and writes into an idle stream, map the buffer, move
// the bytes and unmap it: the driver moves nothing where host and device share the DRAM. The bytes are
// copied out of the mapping, since drivers may map memory that the CPU does not cache: good to read
// once, bad to compute on.
//
// Images cannot be copied: all of these raise an error for one.
//
// Where memory is shared, a read waits for the last command that used the buffer and a write happens
// at once if that has ended, both without a command, so no thread of the driver has to wake up.
#pragma once

#include <cstddef>

#include "buffer_pool.h"
#include "stream.h"

namespace syncnas::opencl {

void Write(Buffer* to, size_t offset, const void* from, size_t bytes, Stream& stream);
void Read(Buffer* from, size_t offset, void* to, size_t bytes, Stream& stream);
// Both on the stream's device.
void Copy(Buffer* from, size_t from_offset, Buffer* to, size_t to_offset, size_t bytes,
          Stream& stream);

// Maps a part of a buffer, without waiting: what is returned may be touched when `pending` has ended,
// and until Unmap, which waits for nothing either (the next command finds the buffer unmapped).
void* Map(Buffer* buffer, size_t offset, size_t bytes, bool for_reading, Stream& stream,
          Pending* pending);
void Unmap(Buffer* buffer, void* data, Stream& stream);

}  // namespace syncnas::opencl
