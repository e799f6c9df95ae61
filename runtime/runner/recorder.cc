// SPDX-License-Identifier: Apache-2.0
#include "recorder.h"

#include <tvm/ffi/any.h>

#include <cctype>

#include "../clock_sync.h"
#include "../json.h"

namespace syncnas::runner {

struct Recorder::Log {
  struct Event {
    std::string name;
    std::string region;
    int64_t start_ns;
    int64_t end_ns;
  };
  std::vector<Event> events;
  std::vector<std::string> functions;  // the lane functions that the VM is in

  void Note(const std::string& name, bool before);
};

namespace {

bool StartsWith(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

// Kernels and transfers; the VM's other builtins are what the thread does in between.
bool IsTracked(const std::string& name) {
  return name == "vm.builtin.to_device" || StartsWith(name, "cpu_") || StartsWith(name, "gpu_");
}

// r<number>_..., as the passes name the functions of a region.
bool IsLaneFunction(const std::string& name) {
  size_t at = 1;
  while (at < name.size() && std::isdigit(static_cast<unsigned char>(name[at]))) ++at;
  return at > 1 && name[0] == 'r' && (at == name.size() || name[at] == '_');
}

}  // namespace

void Recorder::Log::Note(const std::string& name, bool before) {
  const int64_t now = opencl::HostNow();
  if (IsTracked(name)) {
    if (before) {
      events.push_back({name, functions.empty() ? "" : functions.back(), now, now});
    } else if (!events.empty()) {
      events.back().end_ns = now;
    }
  } else if (IsLaneFunction(name)) {
    if (before) {
      functions.push_back(name);
    } else if (!functions.empty()) {
      functions.pop_back();
    }
  }
}

Recorder::Recorder() : log_(std::make_shared<Log>()) {}

tvm::ffi::Function Recorder::instrument() const {
  // (function, name, whether it is before the call, result, arguments...)
  return tvm::ffi::Function::FromPacked(
      [log = log_](const tvm::ffi::AnyView* args, int32_t, tvm::ffi::Any* result) {
        log->Note(args[1].cast<std::string>(), args[2].cast<bool>());
        *result = int64_t{0};  // go on
      });
}

std::string Recorder::Json() const {
  opencl::JsonList list;
  for (const Log::Event& event : log_->events) {
    list.Add(opencl::JsonObject()
                 .Add("name", event.name)
                 .Add("region", event.region)
                 .Add("start_ns", event.start_ns)
                 .Add("end_ns", event.end_ns));
  }
  return list.Text();
}

}  // namespace syncnas::runner
