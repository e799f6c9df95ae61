// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <stdexcept>

namespace syncnas::server {

namespace {

constexpr const char* kHelp =
    "syncnas-server: runs models for clients of TVM's RPC.\n"
    "  --host=ADDRESS         where to listen (127.0.0.1)\n"
    "  --port=N --port-end=N  first and last port to try (9090 to 9199); 0: any\n"
    "  --tracker=HOST:PORT    the TVM tracker to register with\n"
    "  --key=NAME             the name to register under (device)\n"
    "  --custom-addr=ADDRESS  the address that the tracker gives to clients\n"
    "  --work-dir=FOLDER      where sessions keep their files while they last (.)\n"
    "  --load=LIBRARY         load this library; repeatable\n"
    "  --session-seconds=S    end sessions after S seconds (0: when the client asked for)\n"
    "  --memory-mb=N          end sessions that use more memory (0: no limit)\n"
    "TVM's RPC runs whatever it is sent, without a password: listen on trusted networks only.\n";

double Number(const std::string& flag, const std::string& text, double most) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= 0) || value > most) {
    throw std::runtime_error(flag + "=" + text + ": not a number from 0 to " +
                             std::to_string(static_cast<long>(most)));
  }
  return value;
}

int Port(const std::string& flag, const std::string& text) {
  const double value = Number(flag, text, 65535);
  if (value != static_cast<int>(value)) throw std::runtime_error(flag + "=" + text + ": not a port");
  return static_cast<int>(value);
}

std::string Address(const std::string& flag, const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    throw std::runtime_error(flag + "=" + text + ": give HOST:PORT");
  }
  Port(flag, text.substr(colon + 1));
  return text;
}

// What goes into the tracker's JSON unquoted elsewhere has to be plain.
std::string Plain(const std::string& flag, const std::string& text) {
  for (unsigned char c : text) {
    if (c < 0x21 || c > 0x7e || c == '"' || c == '\\' || c == ':') {
      throw std::runtime_error(flag + "=" + text + ": use letters, digits, '.', '-' and '_'");
    }
  }
  return text;
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  Options options;
  using Setter = std::function<void(const std::string&)>;
  const std::map<std::string, Setter> setters = {
      {"--host", [&](const auto& v) { options.host = v; }},
      {"--port", [&](const auto& v) { options.port = Port("--port", v); }},
      {"--port-end", [&](const auto& v) { options.last_port = Port("--port-end", v); }},
      {"--tracker", [&](const auto& v) { options.tracker = Address("--tracker", v); }},
      {"--key", [&](const auto& v) { options.key = Plain("--key", v); }},
      {"--custom-addr",
       [&](const auto& v) { options.custom_address = Plain("--custom-addr", v); }},
      {"--work-dir", [&](const auto& v) { options.work_folder = v; }},
      {"--load", [&](const auto& v) { options.libraries.push_back(v); }},
      {"--session-seconds",
       [&](const auto& v) { options.session_seconds = Number("--session-seconds", v, 1e6); }},
      {"--memory-mb",
       [&](const auto& v) { options.memory_mb = static_cast<long>(Number("--memory-mb", v, 1e7)); }},
  };
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help") {
      std::fputs(kHelp, stdout);
      std::exit(0);
    }
    const size_t equals = argument.find('=');
    const auto found = setters.find(argument.substr(0, equals));
    if (equals == std::string::npos || found == setters.end()) {
      throw std::runtime_error("unknown flag '" + argument + "'; --help lists the flags");
    }
    found->second(argument.substr(equals + 1));
  }
  if (options.key.empty()) throw std::runtime_error("--key= is empty; give the device a name");
  if (options.last_port < options.port) options.last_port = options.port;
  return options;
}

}  // namespace syncnas::server
