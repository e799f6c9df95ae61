// SPDX-License-Identifier: Apache-2.0
#include "replay.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "../boundary.h"
#include "../clock_sync.h"
#include "../device.h"
#include "../host_memory.h"
#include "../opencl_loader.h"
#include "capture.h"
#include "library_name.h"
#include "queue.h"

namespace syncnas::runner {

namespace {

namespace ffi = tvm::ffi;

constexpr int kPooledAllocator = 2;

ffi::Function Member(const ffi::Module& module, const char* name) {
  auto function = TvmMember(module, name);
  if (!function.has_value()) {
    TVM_FFI_THROW(RuntimeError) << "model.so has no function '" << name
                                << "'; compile the model again";
  }
  return *function;
}

ffi::Module LoadVM(const std::string& folder, bool uses_gpu) {
  const ffi::Module library = LoadModule(LibraryName(folder));
  ffi::Module vm = Member(library, "vm_load_executable")().cast<ffi::Module>();
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

ffi::Tensor Zeros(const TensorSpec& spec) {
  const ffi::Shape shape(spec.shape.begin(), spec.shape.end());
  ffi::Tensor tensor = opencl::MakeHostTensor(shape, ffi::StringToDLDataType(spec.dtype));
  std::memset(tensor.data_ptr(), 0, ffi::GetDataSize(*tensor.GetDLTensorPtr()));
  return tensor;
}

opencl::MemoryKind MemoryOf(const Manifest& manifest) {
  return manifest.uses_gpu ? opencl::OpenDevice(0).memory() : opencl::MemoryKind::kCopied;
}

// Where the host sees a tensor in shared memory.
void* OnHost(const DLTensor& tensor) {
  if (tensor.device.device_type == kDLCPU) return tensor.data;
  return static_cast<opencl::Buffer*>(tensor.data)->shared;
}

}  // namespace

// A step with everything that it is called with, made once.
struct Replay::Call {
  std::vector<DLTensor> tensors;
  std::vector<ffi::AnyView> arguments;
  std::unique_ptr<opencl::Launch> launch;  // of a GPU kernel, where that is all that the step does
};

// The launch that a GPU kernel's step comes down to. Null where it comes down to several, or to one in
// memory that is its own for the time of the call: such steps are called anew in each run.
std::unique_ptr<opencl::Launch> Replay::LaunchOf(const Step& step, const Call& call) {
  opencl::LaunchRecorder recorder;
  ffi::Any nothing;
  step.function.CallPacked(call.arguments.data(), static_cast<int32_t>(call.arguments.size()),
                           &nothing);
  if (recorder.launches.size() != 1) return nullptr;
  std::unique_ptr<opencl::Launch> launch = std::move(recorder.launches.front());
  for (const opencl::Buffer* buffer : launch->buffers()) {
    const bool lasts = std::any_of(
        call.arguments.begin(), call.arguments.end(), [buffer](const ffi::AnyView& argument) {
          const auto tensor = argument.try_cast<DLTensor*>();
          return tensor.has_value() && (*tensor)->data == buffer;
        });
    if (!lasts) return nullptr;
  }
  return launch;
}

Replay::Replay(const std::string& folder, const Manifest& manifest)
    : Replay(folder, manifest, MemoryOf(manifest)) {}

Replay::Replay(const std::string& folder, const Manifest& manifest, opencl::MemoryKind kind)
    : transfers_(kind == opencl::MemoryKind::kMapped) {
  vm_ = LoadVM(folder, manifest.uses_gpu);
  if (manifest.uses_gpu) {
    for (const ffi::Any& weight : Member(*vm_, "gpu_weights")().cast<ffi::Array<ffi::Any>>()) {
      weights_.push_back(weight);
    }
  }
  std::vector<ffi::Tensor> inputs;
  for (const TensorSpec& spec : manifest.inputs) inputs.push_back(Zeros(spec));
  steps_ = Capture(*vm_, inputs, weights_, kind == opencl::MemoryKind::kShared);
  PlaceWaits(steps_);
  // What the captured run worked in: both pools would keep it for the next.
  TvmFunction("vm.builtin.memory_manager.clear")();
  if (manifest.uses_gpu) opencl::OpenDevice(0).buffers().Trim();
  memory_ = std::make_shared<SlotMemory>(steps_, PlanMemory(steps_, kind == opencl::MemoryKind::kMapped));
  pending_.resize(steps_.steps.size());
  Prepare();
  transfers_.MapWrites();
}

Replay::~Replay() {
  if (opencl::ShuttingDown()) return;
  try {
    LetGo();
    transfers_.Unmap();
  } catch (const ffi::Error&) {  // the device is lost: nothing uses the memory any more
  }
}

void Replay::Prepare() {
  for (int i = 0; i < static_cast<int>(steps_.steps.size()); ++i) {
    const Step& step = steps_.steps[i];
    Call& call = calls_.emplace_back();
    call.tensors.reserve(step.operands.size());  // the arguments point into it
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
    if (step.kind == StepKind::kWrite || step.kind == StepKind::kRead) AddTransfer(i);
    if (step.kind == StepKind::kGpuKernel) call.launch = LaunchOf(step, call);
  }
  for (int value : steps_.inputs) inputs_.push_back(memory_->HostTensor(steps_.values[value]));
  for (const Operand& output : steps_.outputs) {
    outputs_.push_back(output.value < 0 ? output.fixed.cast<ffi::Tensor>()
                                        : memory_->HostTensor(steps_.values[output.value]));
  }
}

void Replay::AddTransfer(int index) {
  const auto tensor = [&](int i) {
    const Operand& operand = steps_.steps[index].operands[i];
    return operand.value >= 0 ? *calls_[index].arguments[i].cast<DLTensor*>()
                              : *operand.fixed.cast<ffi::Tensor>().GetDLTensorPtr();
  };
  const DLTensor source = tensor(0), destination = tensor(1);
  const bool write = steps_.steps[index].kind == StepKind::kWrite;
  const DLTensor& device = write ? destination : source;
  const DLTensor& host = write ? source : destination;
  transfers_.Add(index, steps_.steps[index], static_cast<opencl::Buffer*>(device.data),
                 device.byte_offset, static_cast<char*>(host.data) + host.byte_offset,
                 ffi::GetDataSize(destination));
}

void Replay::Run(Recorder* recorder) {
  std::lock_guard<std::mutex> lock(mutex_);
  LetGo();
  transfers_.MapWrites();
  const int count = static_cast<int>(steps_.steps.size());
  ffi::Any nothing;
  for (int i = 0; i < count; ++i) {
    const Step& step = steps_.steps[i];
    if (step.wait_for >= 0) WaitFor(step.wait_for, recorder);
    const int64_t start_ns = recorder == nullptr ? 0 : opencl::HostNow();
    queue_in_use_ = queue_in_use_ || step.queued();
    if (step.kind == StepKind::kCopyRows) {
      opencl::CopyRows(OnHost(calls_[i].tensors[0]), OnHost(calls_[i].tensors[1]), step.rows);
    } else if (calls_[i].launch != nullptr) {
      calls_[i].launch->Enqueue(Queue());
    } else if (step.kind == StepKind::kCpuKernel || step.kind == StepKind::kGpuKernel) {
      const std::vector<ffi::AnyView>& arguments = calls_[i].arguments;
      step.function.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &nothing);
    } else if (step.queued()) {
      pending_[i] = transfers_.Start(i);
    }
    if (step.waited_for && pending_[i].event == nullptr) {
      CheckQueue(Queue().Mark(&pending_[i]), "clEnqueueMarkerWithWaitList", step);
    }
    if (!step.waited_for) Release(pending_[i]);
    if (recorder != nullptr) recorder->Note(step.name, step.region, start_ns);
  }
  if (steps_.wait_at_end >= 0) WaitFor(steps_.wait_at_end, recorder);
  queue_in_use_ = false;
  transfers_.MapWrites();
}

void Replay::WaitFor(int step, Recorder* recorder) {
  const int64_t start_ns = recorder == nullptr ? 0 : opencl::HostNow();
  const opencl::Pending pending = std::exchange(pending_[step], {});
  CheckQueue(Queue().Wait(pending), "clWaitForEvents", steps_.steps[step]);
  transfers_.Fetch(step);
  if (recorder != nullptr) recorder->Note("wait", steps_.steps[step].region, start_ns);
}

// What a run that failed left behind: the queue may still use the memory.
void Replay::LetGo() {
  if (!queue_in_use_) return;
  for (opencl::Pending& pending : pending_) Release(pending);
  Queue().Finish();
  transfers_.Unmap();
  queue_in_use_ = false;
}

void Replay::Release(opencl::Pending& pending) {
  if (pending.event != nullptr) opencl::CL().clReleaseEvent(pending.event);
  pending = {};
}

}  // namespace syncnas::runner
