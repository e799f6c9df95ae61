// SPDX-License-Identifier: Apache-2.0
//
// Listens, attends to the tracker, and runs one session at a time. One thread, no call that can wait
// longer than the peer's reply time.
#pragma once

#include <csignal>
#include <string>

#include "options.h"
#include "session.h"
#include "socket.h"
#include "tracker.h"

namespace syncnas::server {

class Server {
 public:
  // Throws std::runtime_error where it cannot listen or the work folder cannot be made.
  explicit Server(const Options& options);
  ~Server();

  // Until *stop is set (by a signal handler).
  void Run(const volatile std::sig_atomic_t* stop);

 private:
  void Welcome();
  bool Admit(const Socket& client, double* seconds);

  const Options options_;
  int port_ = 0;
  Socket listener_;
  Tracker tracker_;
  Session session_;
  std::string folder_;
  int sessions_ = 0;
};

}  // namespace syncnas::server
