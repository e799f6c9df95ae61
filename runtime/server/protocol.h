// SPDX-License-Identifier: Apache-2.0
//
// Numbers of TVM's RPC protocol (python/tvm/rpc/base.py of the release that this is built against),
// and how long its parts may take.
#pragma once

#include <cstddef>
#include <cstdint>

namespace syncnas::server {

constexpr int32_t kServerMagic = 0xff271;
constexpr int32_t kAccepted = kServerMagic;
constexpr int32_t kWrongKey = kServerMagic + 2;

constexpr int32_t kTrackerMagic = 0x2f271;
enum TrackerCode { kPut = 3, kUpdateInfo = 5, kPendingKeys = 7 };

// Answers come at once from a peer that is alive.
constexpr double kReplySeconds = 5;
// While a session runs: nobody looks after its limits during a wait.
constexpr double kBusyReplySeconds = 1;
constexpr size_t kLongestKey = 4096;
constexpr size_t kLongestTrackerReply = size_t{1} << 22;

}  // namespace syncnas::server
