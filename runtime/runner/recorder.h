// SPDX-License-Identifier: Apache-2.0
//
// When each step of one run began and ended on the host.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace syncnas::runner {

class Recorder {
 public:
  // Something that began at `start_ns` and ends now.
  void Note(const std::string& name, const std::string& region, int64_t start_ns);
  // A list of {name, region, start_ns, end_ns} in the order of the steps.
  std::string Json() const;

 private:
  struct Event {
    std::string name, region;
    int64_t start_ns, end_ns;
  };
  std::vector<Event> events_;
};

}  // namespace syncnas::runner
