// SPDX-License-Identifier: Apache-2.0
#include "socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>

namespace syncnas::server {

namespace {

using Clock = std::chrono::steady_clock;

class Deadline {
 public:
  explicit Deadline(double seconds)
      : end_(Clock::now() + std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6))) {}

  // Waits until `events` can happen on the descriptor; false when the time is over.
  bool Await(int descriptor, short events) const {
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()).count();
      pollfd waiting{descriptor, events, 0};
      const int ready = poll(&waiting, 1, static_cast<int>(std::max<int64_t>(0, left)));
      if (ready > 0) return true;
      if (ready == 0 || errno != EINTR) return false;
    }
  }

 private:
  Clock::time_point end_;
};

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses Find(const std::string& host, const std::string& port, int flags) {
  addrinfo wanted{};
  wanted.ai_family = AF_UNSPEC;
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = flags;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), port.c_str(), &wanted, &found);
  return {code == 0 ? found : nullptr, &freeaddrinfo};
}

Socket Make(const addrinfo& address) {
  return Socket(socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

int PortOf(const Socket& bound) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  getsockname(bound.descriptor(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

void Set(int descriptor, int level, int option, int value) {
  setsockopt(descriptor, level, option, &value, sizeof(value));
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this != &other) {
    Close();
    descriptor_ = other.Release();
  }
  return *this;
}

int Socket::Release() { return std::exchange(descriptor_, -1); }

void Socket::Close() {
  if (descriptor_ >= 0) close(Release());
}

Socket Socket::Connect(const std::string& address, double seconds) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return Socket();
  const Addresses found = Find(address.substr(0, colon), address.substr(colon + 1), 0);
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    Socket made = Make(*at);
    if (!made.is_open()) continue;
    if (connect(made.descriptor(), at->ai_addr, at->ai_addrlen) != 0) {
      if (errno != EINPROGRESS || !Deadline(seconds).Await(made.descriptor(), POLLOUT)) continue;
      int problem = 0;
      socklen_t size = sizeof(problem);
      getsockopt(made.descriptor(), SOL_SOCKET, SO_ERROR, &problem, &size);
      if (problem != 0) continue;
    }
    Set(made.descriptor(), IPPROTO_TCP, TCP_NODELAY, 1);
    return made;
  }
  return Socket();
}

Socket Socket::Listen(const std::string& host, int first, int last, int* port) {
  std::string problem = "the address is not known";
  for (*port = first; *port <= last; ++*port) {
    const Addresses found = Find(host, std::to_string(*port), AI_PASSIVE);
    if (found == nullptr) break;
    Socket made = Make(*found);
    if (!made.is_open()) break;
    Set(made.descriptor(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(made.descriptor(), found->ai_addr, found->ai_addrlen) == 0 &&
        listen(made.descriptor(), 16) == 0) {
      if (*port == 0) *port = PortOf(made);
      return made;
    }
    problem = std::strerror(errno);
  }
  throw std::runtime_error("cannot listen on " + host + ", ports " + std::to_string(first) + " to " +
                           std::to_string(last) + ": " + problem);
}

Socket Socket::Accept() const {
  return Socket(accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

bool Socket::Send(const void* data, size_t bytes, double seconds) const {
  const Deadline deadline(seconds);
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = send(descriptor_, at, bytes, MSG_NOSIGNAL);
    if (sent > 0) {
      at += sent;
      bytes -= static_cast<size_t>(sent);
    } else if (errno != EINTR && errno != EAGAIN) {
      return false;
    } else if (!deadline.Await(descriptor_, POLLOUT)) {
      return false;
    }
  }
  return true;
}

bool Socket::Receive(void* data, size_t bytes, double seconds) const {
  const Deadline deadline(seconds);
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    if (!deadline.Await(descriptor_, POLLIN)) return false;
    const ssize_t got = recv(descriptor_, at, bytes, 0);
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) return false;
    if (got < 0) continue;
    at += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

bool Socket::SendNumber(int32_t number, double seconds) const {
  return Send(&number, sizeof(number), seconds);
}

bool Socket::ReceiveNumber(int32_t* number, double seconds) const {
  return Receive(number, sizeof(*number), seconds);
}

bool Socket::SendText(const std::string& text, double seconds) const {
  return SendNumber(static_cast<int32_t>(text.size()), seconds) &&
         Send(text.data(), text.size(), seconds);
}

bool Socket::ReceiveText(std::string* text, size_t most, double seconds) const {
  int32_t size = 0;
  if (!ReceiveNumber(&size, seconds) || size < 0 || static_cast<size_t>(size) > most) return false;
  text->resize(static_cast<size_t>(size));
  return Receive(text->data(), text->size(), seconds);
}

void Socket::MakeBlocking() const {
  fcntl(descriptor_, F_SETFL, fcntl(descriptor_, F_GETFL) & ~O_NONBLOCK);
  Set(descriptor_, IPPROTO_TCP, TCP_NODELAY, 1);
  // A client whose cable was pulled is given up after 10 + 5 * 4 seconds.
  Set(descriptor_, SOL_SOCKET, SO_KEEPALIVE, 1);
  Set(descriptor_, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  Set(descriptor_, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  Set(descriptor_, IPPROTO_TCP, TCP_KEEPCNT, 4);
}

}  // namespace syncnas::server
