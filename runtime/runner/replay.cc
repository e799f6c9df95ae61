// SPDX-License-Identifier: Apache-2.0
#include "replay.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/error.h>

#include "../clock_sync.h"
#include "../device.h"
#include "../opencl_error.h"
#include "../opencl_loader.h"
#include "capture.h"
#include "host_tensor.h"

namespace syncnas::runner {

namespace {

namespace ffi = tvm::ffi;
using opencl::cl_command_queue;
using opencl::cl_event;
using opencl::cl_int;
using opencl::kClFalse;
using opencl::kClSuccess;

constexpr int kPooledAllocator = 2;

ffi::Function Member(const ffi::Module& module, const char* name) {
  auto function = module->GetFunction(name, true);
  if (!function.has_value()) {
    TVM_FFI_THROW(RuntimeError) << "model.so has no function '" << name
                                << "'; compile the model again";
  }
  return *function;
}

ffi::Module LoadVM(const std::string& folder, bool uses_gpu) {
  const std::string path = folder + "/model.so";
  ffi::Module vm = Member(ffi::Module::LoadFromFile(path), "vm_load_executable")().cast<ffi::Module>();
  const ffi::Function initialize = Member(vm, "vm_initialization");
  // (device type, device id, allocator) of each device; the VM wants the CPU at the end too.
  if (uses_gpu) {
    initialize(int{kDLCPU}, 0, kPooledAllocator, int{kDLOpenCL}, 0, kPooledAllocator, int{kDLCPU}, 0,
               kPooledAllocator);
  } else {
    initialize(int{kDLCPU}, 0, kPooledAllocator);
  }
  return vm;
}

opencl::Stream& Queue() { return opencl::OpenDevice(0).CurrentStream(); }

void CheckQueue(cl_int code, const char* call, const Step& step) {
  if (code == kClSuccess) return;
  opencl::ThrowCallError(code, {call, opencl::OpenDevice(0).name(), step.name,
                                step.region.empty() ? "" : "in " + step.region});
}

}  // namespace

// A step with everything that it is called with, made once.
struct Replay::Call {
  std::vector<DLTensor> tensors;
  std::vector<ffi::AnyView> arguments;
  const std::string* command = nullptr;  // as the queue's records name it
};

Replay::Replay(const std::string& folder, const Manifest& manifest) {
  bool shared = false;
  if (manifest.uses_gpu) shared = opencl::OpenDevice(0).memory() == opencl::MemoryKind::kShared;
  vm_ = LoadVM(folder, manifest.uses_gpu);
  if (manifest.uses_gpu) {
    for (const ffi::Any& weight : Member(*vm_, "gpu_weights")().cast<ffi::Array<ffi::Any>>()) {
      weights_.push_back(weight);
    }
  }
  std::vector<ffi::Tensor> inputs;
  for (const TensorSpec& spec : manifest.inputs) inputs.push_back(MakeHostTensor(spec));
  steps_ = Capture(*vm_, inputs, weights_, shared);
  PlaceWaits(steps_);
  // What the captured run worked in: both pools would keep it for the next.
  ffi::Function::GetGlobalRequired("vm.builtin.memory_manager.clear")();
  if (manifest.uses_gpu) opencl::OpenDevice(0).buffers().Trim();
  memory_ = std::make_shared<SlotMemory>(steps_, PlanMemory(steps_));
  pending_.resize(steps_.steps.size());
  Prepare();
}

Replay::~Replay() {
  if (opencl::ShuttingDown()) return;
  try {
    LetGo();
  } catch (const ffi::Error&) {  // the device is lost: nothing uses the memory any more
  }
}

void Replay::Prepare() {
  for (const Step& step : steps_.steps) {
    Call& call = calls_.emplace_back();
    call.tensors.reserve(step.operands.size());  // the arguments point into it
    if (step.kind == StepKind::kWrite) call.command = opencl::Intern("write");
    if (step.kind == StepKind::kRead) call.command = opencl::Intern("read");
    for (const Operand& operand : step.operands) {
      if (operand.value < 0) {
        call.arguments.emplace_back(operand.fixed);
        continue;
      }
      Value& value = steps_.values[operand.value];
      DLTensor& tensor = call.tensors.emplace_back();
      tensor = {memory_->Data(value),
                {value.on_device ? kDLOpenCL : kDLCPU, 0},
                static_cast<int32_t>(value.shape.size()),
                value.dtype,
                value.shape.data(),
                nullptr,
                0};
      call.arguments.emplace_back(&tensor);
    }
  }
  for (int value : steps_.inputs) inputs_.push_back(memory_->HostTensor(steps_.values[value]));
  for (const Operand& output : steps_.outputs) {
    outputs_.push_back(output.value < 0 ? output.fixed.cast<ffi::Tensor>()
                                        : memory_->HostTensor(steps_.values[output.value]));
  }
}

void Replay::Run(Recorder* recorder) {
  std::lock_guard<std::mutex> lock(mutex_);
  LetGo();
  const int count = static_cast<int>(steps_.steps.size());
  ffi::Any nothing;
  for (int i = 0; i < count; ++i) {
    const Step& step = steps_.steps[i];
    if (step.wait_for >= 0) WaitFor(step.wait_for, recorder);
    const int64_t start_ns = recorder == nullptr ? 0 : opencl::HostNow();
    if (step.kind == StepKind::kCpuKernel || step.kind == StepKind::kGpuKernel) {
      const std::vector<ffi::AnyView>& arguments = calls_[i].arguments;
      step.function.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &nothing);
      if (step.waited_for) CheckQueue(Queue().Mark(&pending_[i]), "clEnqueueMarker", step);
    } else if (step.queued()) {
      Enqueue(i);
    }
    if (recorder != nullptr) recorder->Note(step.name, step.region, start_ns);
  }
  if (steps_.wait_at_end >= 0) WaitFor(steps_.wait_at_end, recorder);
}

void Replay::WaitFor(int step, Recorder* recorder) {
  const int64_t start_ns = recorder == nullptr ? 0 : opencl::HostNow();
  const opencl::Pending pending = pending_[step];
  pending_[step] = {};
  CheckQueue(Queue().Wait(pending), "clWaitForEvents", steps_.steps[step]);
  if (recorder != nullptr) recorder->Note("wait", steps_.steps[step].region, start_ns);
}

// Host memory stays as it is until the queue has used it (PlanMemory sees to that): nothing has to
// be copied aside, and nothing is waited for here.
void Replay::Enqueue(int index) {
  const Step& step = steps_.steps[index];
  const bool write = step.kind == StepKind::kWrite;
  const auto tensor = [&](int i) {
    const Operand& operand = step.operands[i];
    return operand.value >= 0 ? *calls_[index].arguments[i].cast<DLTensor*>()
                              : *operand.fixed.cast<ffi::Tensor>().GetDLTensorPtr();
  };
  const DLTensor source = tensor(0), destination = tensor(1);
  auto* buffer = static_cast<opencl::Buffer*>(write ? destination.data : source.data);
  char* host = static_cast<char*>(write ? source.data : destination.data) +
               (write ? source.byte_offset : destination.byte_offset);
  const size_t bytes = TensorBytes(destination);
  opencl::Stream& queue = Queue();
  const auto enqueue = [&](cl_command_queue to, cl_event* event) {
    return write ? opencl::CL().clEnqueueWriteBuffer(to, buffer->memory, kClFalse, 0, bytes, host, 0,
                                                     nullptr, event)
                 : opencl::CL().clEnqueueReadBuffer(to, buffer->memory, kClFalse, 0, bytes, host, 0,
                                                    nullptr, event);
  };
  opencl::Pending done;
  const cl_int code = queue.Submit(calls_[index].command, bytes, enqueue, &done);
  CheckQueue(code, write ? "clEnqueueWriteBuffer" : "clEnqueueReadBuffer", step);
  buffer->MarkUsed(queue.id(), done.number);
  if (step.waited_for) {
    pending_[index] = done;
  } else {
    opencl::CL().clReleaseEvent(done.event);
  }
}

// What a run that failed left behind: the queue may still use the memory.
void Replay::LetGo() {
  bool left = false;
  for (opencl::Pending& pending : pending_) {
    if (pending.event == nullptr) continue;
    opencl::CL().clReleaseEvent(pending.event);
    pending = {};
    left = true;
  }
  if (left) Queue().Finish();
}

}  // namespace syncnas::runner
