// SPDX-License-Identifier: Apache-2.0
//
// The on-device server: a TVM RPC server without Python.
#include <dlfcn.h>
#include <signal.h>

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

#include "log.h"
#include "options.h"
#include "server.h"

namespace syncnas::server {

void Log(const std::string& line) { std::fprintf(stderr, "[syncnas-server] %s\n", line.c_str()); }

namespace {

volatile sig_atomic_t stop = 0;

void Stop(int) { stop = 1; }

void Load(const std::string& library) {
  // Global: model libraries look their runtime up in the process.
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("--load: ") + dlerror());
  }
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  for (const std::string& library : options.libraries) Load(library);
  struct sigaction action = {};
  action.sa_handler = Stop;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  Server(options).Run(&stop);
  return 0;
}

}  // namespace

}  // namespace syncnas::server

int main(int argc, char** argv) {
  try {
    return syncnas::server::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
