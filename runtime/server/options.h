// SPDX-License-Identifier: Apache-2.0
//
// The server's command line.
#pragma once

#include <string>
#include <vector>

namespace syncnas::server {

struct Options {
  std::string host = "127.0.0.1";
  int port = 9090;
  int last_port = 9199;
  std::string tracker;  // HOST:PORT; empty: none, clients connect directly
  std::string key = "device";
  std::string custom_address;  // what the tracker tells clients; empty: where it sees us
  std::string work_folder = ".";
  std::vector<std::string> libraries;
  double session_seconds = 0;  // 0: as long as the client asks for
  long memory_mb = 0;          // 0: no limit
};

// Throws std::runtime_error with one line for a flag that is unknown or has a bad value; prints the
// flags and ends the process for --help.
Options ParseOptions(int argc, char** argv);

}  // namespace syncnas::server
