// SPDX-License-Identifier: Apache-2.0
//
// One client's session: a process of its own, so that whatever the client's code does, the server
// lives on and the memory comes back. Ends with its time, its memory or its client, and leaves
// nothing behind.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

#include "options.h"
#include "socket.h"

namespace syncnas::server {

class Session {
 public:
  Session() = default;
  ~Session() { End(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // `seconds` as the client asked for (0: no limit); the smaller one of it and the options' counts.
  void Start(Socket client, const Options& options, const std::string& folder, double seconds);
  bool running() const { return process_ > 0; }
  // Reaps the process if it has ended, ends it if it is over a limit. To be called now and then.
  void Attend();
  // Ends it now.
  void End();

 private:
  void CleanUp(int status);

  pid_t process_ = -1;
  std::string folder_;
  double seconds_ = 0;
  long memory_mb_ = 0;
  std::chrono::steady_clock::time_point start_{};
};

}  // namespace syncnas::server
