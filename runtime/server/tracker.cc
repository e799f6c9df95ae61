// SPDX-License-Identifier: Apache-2.0
#include "tracker.h"

#include <random>

#include "log.h"
#include "protocol.h"

namespace syncnas::server {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kRetry{1};
// A client that was given our key and has not come by then has died: make a new offer.
constexpr std::chrono::seconds kClientTime{6};

std::string RandomKey(const std::string& name) {
  static std::random_device random;
  return name + ":" + std::to_string(random()) + std::to_string(random());
}

std::string Quoted(const std::string& text) { return "\"" + text + "\""; }

}  // namespace

void Tracker::Attend(bool offer) {
  if (!wanted()) return;
  patience_ = offer ? kReplySeconds : kBusyReplySeconds;
  if (!socket_.is_open() && !Connect()) return;
  bool pending = false;
  if (!StillPending(&pending)) return Lose();
  if (!offer) return;
  if (match_key_.empty()) {
    if (!Put()) Lose();
    return;
  }
  const Clock::time_point now = Clock::now();
  if (pending) {
    taken_since_ = now;
  } else if (now - taken_since_ > kClientTime && !Put()) {
    Lose();
  }
}

bool Tracker::Connect() {
  const Clock::time_point now = Clock::now();
  if (now < next_try_) return false;
  next_try_ = now + kRetry;
  socket_ = Socket::Connect(options_.tracker, patience_);
  if (socket_.is_open() && Register()) {
    Log("registered as '" + options_.key + "' with the tracker at " + options_.tracker);
    complained_ = false;
    return true;
  }
  if (!complained_) Log("no tracker answers at " + options_.tracker + "; trying until one does");
  complained_ = true;
  socket_.Close();
  return false;
}

bool Tracker::Register() {
  int32_t magic = 0;
  if (!socket_.SendNumber(kTrackerMagic, patience_) ||
      !socket_.ReceiveNumber(&magic, patience_) || magic != kTrackerMagic) {
    return false;
  }
  std::string reply;
  match_key_.clear();
  return Ask("[" + std::to_string(kUpdateInfo) + ", {\"key\": " + Quoted("server:" + options_.key) +
                 ", \"addr\": [" + AddressJson() + ", " + std::to_string(port_) + "]}]",
             &reply);
}

bool Tracker::Put() {
  match_key_ = RandomKey(options_.key);
  taken_since_ = Clock::now();
  std::string reply;
  return Ask("[" + std::to_string(kPut) + ", " + Quoted(options_.key) + ", [" +
                 std::to_string(port_) + ", " + Quoted(match_key_) + "], " + AddressJson() + "]",
             &reply) &&
         reply == "0";
}

bool Tracker::StillPending(bool* pending) {
  std::string keys;
  if (!Ask("[" + std::to_string(kPendingKeys) + "]", &keys)) return false;
  *pending = !match_key_.empty() && keys.find(Quoted(match_key_)) != std::string::npos;
  return true;
}

bool Tracker::Ask(const std::string& request, std::string* reply) {
  return socket_.SendText(request, patience_) &&
         socket_.ReceiveText(reply, kLongestTrackerReply, patience_);
}

void Tracker::Lose() {
  Log("lost the tracker at " + options_.tracker);
  socket_.Close();
  match_key_.clear();
}

std::string Tracker::AddressJson() const {
  return options_.custom_address.empty() ? "null" : Quoted(options_.custom_address);
}

}  // namespace syncnas::server
