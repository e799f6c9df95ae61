// SPDX-License-Identifier: Apache-2.0
#include "recorder.h"

#include "../clock_sync.h"
#include "../json.h"

namespace syncnas::runner {

void Recorder::Note(const std::string& name, const std::string& region, int64_t start_ns) {
  events_.push_back({name, region, start_ns, opencl::HostNow()});
}

std::string Recorder::Json() const {
  opencl::JsonList list;
  for (const Event& event : events_) {
    list.Add(opencl::JsonObject()
                 .Add("name", event.name)
                 .Add("region", event.region)
                 .Add("start_ns", event.start_ns)
                 .Add("end_ns", event.end_ns));
  }
  return list.Text();
}

}  // namespace syncnas::runner
