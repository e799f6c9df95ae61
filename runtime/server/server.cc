// SPDX-License-Identifier: Apache-2.0
#include "server.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "log.h"
#include "protocol.h"

namespace syncnas::server {

namespace {

namespace fs = std::filesystem;

constexpr int kTickMilliseconds = 100;  // how late a limit may be noticed
constexpr int kTicksPerHeartbeat = 10;
constexpr const char* kFolderPrefix = "syncnas-server-";

// Servers that were killed could not remove their folders.
void RemoveLeftOvers(const std::string& work_folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(work_folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(kFolderPrefix, 0) != 0) continue;
    const long process = std::atol(name.c_str() + std::string(kFolderPrefix).size());
    const bool ended = process == getpid() ||  // ours by now: in a container, numbers come again
                       (process > 0 && kill(static_cast<pid_t>(process), 0) != 0 && errno == ESRCH);
    if (ended) {
      fs::remove_all(entry.path(), ignored);
    }
  }
}

bool IsLoopback(const std::string& host) {
  return host.rfind("127.", 0) == 0 || host == "::1" || host == "localhost";
}

// "client:KEY -timeout=SECONDS" as TVM's clients send it.
double WantedSeconds(const std::string& text) {
  constexpr const char* kFlag = "-timeout=";
  const size_t at = text.find(kFlag);
  return at == std::string::npos ? 0 : std::atof(text.c_str() + at + std::string(kFlag).size());
}

}  // namespace

Server::Server(const Options& options)
    : options_(options),
      listener_(Socket::Listen(options.host, options.port, options.last_port, &port_)),
      tracker_(options_, port_) {
  RemoveLeftOvers(options_.work_folder);
  folder_ = fs::absolute(options_.work_folder).string() + "/" + kFolderPrefix +
            std::to_string(getpid());
  std::error_code problem;
  fs::create_directories(folder_, problem);
  if (problem) {
    throw std::runtime_error("--work-dir=" + options_.work_folder + ": " + problem.message());
  }
  Log("listening on " + options_.host + ":" + std::to_string(port_) + ", key '" + options_.key + "'");
  if (!IsLoopback(options_.host)) {
    Log("warning: TVM's RPC runs whatever it is sent; everybody who can reach this address can use "
        "this device as you can");
  }
}

Server::~Server() {
  session_.End();
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

void Server::Run(const volatile sig_atomic_t* stop) {
  for (int tick = 0; !*stop; ++tick) {
    const bool was_running = session_.running();
    session_.Attend();
    const bool ended = was_running && !session_.running();
    if (ended || tick % kTicksPerHeartbeat == 0) tracker_.Attend(!session_.running());
    // A client that comes while a session runs waits in the listener's queue.
    pollfd waiting{session_.running() ? -1 : listener_.descriptor(), POLLIN, 0};
    if (poll(&waiting, 1, kTickMilliseconds) > 0 && !*stop) Welcome();
  }
}

void Server::Welcome() {
  Socket client = listener_.Accept();
  double seconds = 0;
  if (!client.is_open() || !Admit(client, &seconds)) return;
  tracker_.Withdraw();
  session_.Start(std::move(client), options_, folder_ + "/" + std::to_string(++sessions_), seconds);
}

bool Server::Admit(const Socket& client, double* seconds) {
  int32_t magic = 0;
  std::string text;
  if (!client.ReceiveNumber(&magic, kReplySeconds) || magic != kServerMagic ||
      !client.ReceiveText(&text, kLongestKey, kReplySeconds)) {
    Log("turned away a connection that does not speak TVM's RPC");
    return false;
  }
  const std::string& key = tracker_.wanted() ? tracker_.match_key() : options_.key;
  if (key.empty() || text.substr(0, text.find(' ')) != "client:" + key) {
    Log("turned away a client with another key");
    client.SendNumber(kWrongKey, kReplySeconds);
    return false;
  }
  *seconds = WantedSeconds(text);
  return client.SendNumber(kAccepted, kReplySeconds) &&
         client.SendText("server:" + options_.key, kReplySeconds);
}

}  // namespace syncnas::server
