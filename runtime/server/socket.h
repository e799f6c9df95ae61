// SPDX-License-Identifier: Apache-2.0
//
// TCP sockets whose every operation ends: with success, or false after a time-out or an error.
#pragma once

#include <cstdint>
#include <string>

namespace syncnas::server {

class Socket {
 public:
  explicit Socket(int descriptor = -1) : descriptor_(descriptor) {}
  ~Socket() { Close(); }
  Socket(Socket&& other) noexcept : descriptor_(other.Release()) {}
  Socket& operator=(Socket&& other) noexcept;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  // "HOST:PORT"; not open where nobody answers within `seconds`.
  static Socket Connect(const std::string& address, double seconds);
  // The first free port from `first` to `last` (0: any), which is written to *port; throws where none is.
  static Socket Listen(const std::string& host, int first, int last, int* port);
  // Not open where nobody waits to be accepted.
  Socket Accept() const;

  bool is_open() const { return descriptor_ >= 0; }
  int descriptor() const { return descriptor_; }
  int Release();
  void Close();

  // All bytes within `seconds`, or false.
  bool Send(const void* data, size_t bytes, double seconds) const;
  bool Receive(void* data, size_t bytes, double seconds) const;

  // What TVM's protocols are made of: a 32-bit number, and a string after its length. Longer strings
  // than `most` are refused before any memory is taken.
  bool SendNumber(int32_t number, double seconds) const;
  bool ReceiveNumber(int32_t* number, double seconds) const;
  bool SendText(const std::string& text, double seconds) const;
  bool ReceiveText(std::string* text, size_t most, double seconds) const;

  // For the session process, which reads and writes as TVM does: waiting as long as it takes, but
  // not for a peer whose machine has gone.
  void MakeBlocking() const;

 private:
  int descriptor_;
};

}  // namespace syncnas::server
