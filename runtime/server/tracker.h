// SPDX-License-Identifier: Apache-2.0
//
// The server's side of TVM's tracker: offers this device to one client at a time.
#pragma once

#include <chrono>
#include <string>

#include "options.h"
#include "socket.h"

namespace syncnas::server {

class Tracker {
 public:
  Tracker(const Options& options, int port) : options_(options), port_(port) {}

  // Whether there is one at all.
  bool wanted() const { return !options_.tracker.empty(); }
  // What a client has to say: the tracker gives it to the client that gets the device.
  const std::string& match_key() const { return match_key_; }

  // To be called now and then. Connects and registers, again after the tracker was restarted, and
  // tells it that we are alive. With `offer` it also makes sure that the device is on offer; without,
  // a session runs, and a tracker that hangs is given up sooner.
  void Attend(bool offer);
  // The offer has been taken: make a new one at the next chance.
  void Withdraw() { match_key_.clear(); }

 private:
  bool Connect();
  bool Register();
  bool Put();
  bool StillPending(bool* pending);
  bool Ask(const std::string& request, std::string* reply);
  void Lose();
  std::string AddressJson() const;

  const Options& options_;
  const int port_;
  Socket socket_;
  std::string match_key_;
  bool complained_ = false;
  double patience_ = 0;  // seconds for an answer
  std::chrono::steady_clock::time_point taken_since_{};
  std::chrono::steady_clock::time_point next_try_{};
};

}  // namespace syncnas::server
