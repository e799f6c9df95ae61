// SPDX-License-Identifier: Apache-2.0
//
// runtime.timer.opencl: what TVM's time_evaluator and MetaSchedule measure with.
//
// It takes the time on the host's clock between two moments at which the device is idle. Adding up
// the kernels' own times instead would leave out enqueuing, copies and gaps, more than half of a
// heterogeneous model's latency, and would need a profiling queue, which slows some GPUs down.
// The per-kernel times are there too: see profiler.h.
#include <tvm/ffi/object.h>
#include <tvm/runtime/device_api.h>

#include "boundary.h"
#include "clock_sync.h"
#include "device.h"

namespace tvm::runtime {

// TVM's abstract timer. Its header, tvm/runtime/timer.h, cannot be used: it includes files that the
// binary package leaves out. Same type key, same order of virtual functions.
class TimerNode : public ffi::Object {
 public:
  virtual void Start() = 0;
  virtual void Stop() = 0;
  virtual int64_t SyncAndGetElapsedNanos() = 0;
  virtual ~TimerNode() = default;

  static constexpr const bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO("runtime.TimerNode", TimerNode, ffi::Object);
};

class Timer : public ffi::ObjectRef {
 public:
  TVM_FFI_DEFINE_OBJECT_REF_METHODS_NULLABLE(Timer, ffi::ObjectRef, TimerNode);
};

}  // namespace tvm::runtime

namespace syncnas::opencl {

namespace {

class WallClockTimer final : public tvm::runtime::TimerNode {
 public:
  explicit WallClockTimer(int device_index) : device_(OpenDevice(device_index)) {}

  void Start() final {
    RaisingInTvm([&] { device_.FinishAll(); });
    start_ns_ = HostNow();
  }
  void Stop() final {
    RaisingInTvm([&] { device_.FinishAll(); });
    elapsed_ns_ = HostNow() - start_ns_;
  }
  int64_t SyncAndGetElapsedNanos() final { return elapsed_ns_; }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("syncnas.opencl.WallClockTimer", WallClockTimer,
                                    tvm::runtime::TimerNode);

 private:
  Device& device_;
  int64_t start_ns_ = 0;
  int64_t elapsed_ns_ = 0;
};

TVM_FFI_STATIC_INIT_BLOCK() {
  DefineGlobals().def("runtime.timer.opencl", [](DLDevice device) {
    return tvm::runtime::Timer(tvm::ffi::make_object<WallClockTimer>(device.device_id));
  });
}

}  // namespace

}  // namespace syncnas::opencl
