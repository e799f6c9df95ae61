// SPDX-License-Identifier: Apache-2.0
#include "capture.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/error.h>

#include <cctype>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../boundary.h"

namespace syncnas::runner {

namespace {

namespace ffi = tvm::ffi;

const char* const kBuiltin = "vm.builtin.";

bool StartsWith(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

// r<number>_..., as the passes name the functions of a region.
bool IsLaneFunction(const std::string& name) {
  size_t at = 1;
  while (at < name.size() && std::isdigit(static_cast<unsigned char>(name[at]))) ++at;
  return at > 1 && name[0] == 'r' && (at == name.size() || name[at] == '_');
}

const void* Address(const DLTensor& tensor) {
  return static_cast<const char*>(tensor.data) + tensor.byte_offset;
}

}  // namespace

// Follows a run call by call. A tensor is known by its address and its shape: what was last allocated
// there, or a view of that.
class Capturing {
 public:
  explicit Capturing(bool shared) : shared_(shared) {}

  int NewValue(const DLTensor& tensor, int memory = -1) {
    values_[Address(tensor)].clear();
    return NewView(tensor, memory);
  }

  // A value beside those that are at its address.
  int NewView(const DLTensor& tensor, int memory) {
    Value value;
    value.on_device = tensor.device.device_type != kDLCPU;
    value.dtype = tensor.dtype;
    value.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
    if (memory < 0) {
      memory = static_cast<int>(steps_.memories.size());
      steps_.memories.emplace_back().bytes = ffi::GetDataSize(tensor);
    }
    Memory& home = steps_.memories[memory];
    (value.on_device ? home.device : home.host) = true;
    value.memory = memory;
    const int id = static_cast<int>(steps_.values.size());
    steps_.values.push_back(std::move(value));
    defined_.push_back(false);
    values_[Address(tensor)].push_back(id);
    return id;
  }

  void AddInput(const ffi::Tensor& tensor) {
    const int id = NewValue(*tensor.GetDLTensorPtr());
    defined_[id] = true;
    steps_.inputs.push_back(id);
  }

  // What the VM tells its instrument: function, name, whether it is before the call, result,
  // arguments.
  void Note(const ffi::AnyView* told, int32_t count) {
    const auto name = told[1].cast<std::string>();
    const bool before = told[2].cast<bool>();
    const ffi::AnyView* arguments = told + 4;
    if (StartsWith(name, kBuiltin)) {
      if (!before) Builtin(name.substr(std::string(kBuiltin).size()), told[3], arguments);
    } else if (auto function = told[0].try_cast<ffi::Function>()) {
      if (before) {
        Kernel(name, *function, arguments, count - 4);
      } else if (told[3].type_index() >= TVMFFITypeIndex::kTVMFFIStaticObjectBegin) {
        Refuse(name + ", which makes its result itself");
      }
    } else if (IsLaneFunction(name)) {
      if (before) {
        regions_.push_back(name);
      } else {
        regions_.pop_back();
      }
    }
  }

  Operand OperandOf(const ffi::AnyView& argument) const {
    Operand operand;
    if (auto tensor = argument.try_cast<ffi::Tensor>()) {
      operand.value = Find(*tensor->GetDLTensorPtr());
      if (operand.value >= 0) return operand;
    }
    operand.fixed = argument;  // keeps a weight alive
    return operand;
  }

  void SetOutputs(const ffi::Any& result) {
    if (auto several = result.try_cast<ffi::Array<ffi::Any>>()) {
      for (const ffi::Any& item : *several) steps_.outputs.push_back(Use(item));
    } else {
      steps_.outputs.push_back(Use(result));
    }
  }

  Steps Take() { return std::move(steps_); }

 private:
  void Builtin(const std::string& name, const ffi::AnyView& result, const ffi::AnyView* arguments) {
    if (name == "alloc_tensor") {
      NewValue(*result.cast<ffi::Tensor>().GetDLTensorPtr());
    } else if (name == "reshape") {
      const Operand from = Use(arguments[0]);
      if (from.value < 0) return;  // of a weight: its address is no value's, so it stays a weight
      const int to = NewView(*result.cast<ffi::Tensor>().GetDLTensorPtr(), MemoryOf(from.value));
      defined_[to] = true;
    } else if (name == "to_device") {
      Transfer(Use(arguments[0]), *result.cast<ffi::Tensor>().GetDLTensorPtr());
    } else if (name == "rows_to_device") {
      const auto to = result.cast<ffi::Tensor>();
      Transfer(Use(arguments[0]), *to.GetDLTensorPtr(), opencl::RowsOf(to, arguments + 3));
    } else if (name == "exchange_rows") {
      Exchange(arguments, *result.cast<ffi::Tensor>().GetDLTensorPtr());
    } else if (name != "alloc_storage" && name != "null_value" && name != "make_tuple" &&
               name != "tuple_getitem" && name != "match_shape" && !StartsWith(name, "check_")) {
      Refuse(kBuiltin + name);
    }
  }

  [[noreturn]] void Refuse(const std::string& what) const {
    TVM_FFI_THROW(RuntimeError)
        << "the model calls " << what << (Region().empty() ? "" : " in " + Region())
        << ": that may differ from run to run, and compiled models make the same calls each time; "
           "have the pass that adds it write a kernel (call_tir, call_dps_packed) instead";
  }

  // The function's result is a copy; in a captured run the rows go into the tensor that it is of.
  void Exchange(const ffi::AnyView* arguments, const DLTensor& to) {
    const Operand own = Use(arguments[0]), from = Use(arguments[1]);
    if (own.value < 0 || from.value < 0) Refuse("vm.builtin.exchange_rows of a weight");
    Operand destination;
    destination.value = NewValue(to, MemoryOf(own.value));
    destination.written = defined_[destination.value] = true;
    const bool to_device = steps_.values[own.value].on_device;
    const bool moved = to_device != steps_.values[from.value].on_device;  // else it was before
    Step step;
    step.kind = shared_ || !moved ? StepKind::kCopyRows : to_device ? StepKind::kWrite : StepKind::kRead;
    step.name = to_device ? "cpu to gpu" : moved ? "gpu to cpu" : "gpu to cpu, received";
    if (!moved) NameHandOver(from.value);
    step.region = Region();
    step.operands = {from, destination};
    step.rows = opencl::RowsOf(arguments[0].cast<ffi::Tensor>(), arguments[1].cast<ffi::Tensor>(),
                               arguments + 2);
    for (const Operand& operand : step.operands) {
      if (shared_) steps_.memories[MemoryOf(operand.value)].host = true;
    }
    if (shared_ && !to_device) {
      // The host would wait here, while the GPU lacks its next kernels: it copies when it reads.
      deferred_.emplace(destination.value, std::move(step));
    } else {
      steps_.steps.push_back(std::move(step));
    }
  }

  // The transfer that made `value` only began what an exchange ends.
  void NameHandOver(int value) {
    for (Step& step : steps_.steps) {
      const bool transfer = step.kind == StepKind::kRead || step.kind == StepKind::kHandOver;
      if (transfer && step.operands[1].value == value) step.name = "enqueue gpu to cpu";
    }
  }

  // An argument that is read now.
  Operand Use(const ffi::AnyView& argument) {
    const Operand operand = OperandOf(argument);
    const auto found = deferred_.find(operand.value);
    if (found != deferred_.end()) {
      steps_.steps.push_back(std::move(found->second));
      deferred_.erase(found);
    }
    return operand;
  }

  void Transfer(const Operand& from, const DLTensor& to, const opencl::Rows& rows = {}) {
    const bool to_device = to.device.device_type != kDLCPU;
    StepKind kind = to_device ? StepKind::kWrite : StepKind::kRead;
    int memory = -1;
    if (from.value >= 0 && (shared_ || to_device == steps_.values[from.value].on_device)) {
      kind = StepKind::kHandOver;
      memory = MemoryOf(from.value);
    }
    Operand destination;
    destination.value = NewValue(to, memory);
    destination.written = kind != StepKind::kHandOver;
    defined_[destination.value] = true;
    Step step;
    step.kind = kind;
    step.name = to_device ? "cpu to gpu" : "gpu to cpu";
    step.region = Region();
    step.operands = {from, destination};
    step.rows = rows;
    steps_.steps.push_back(std::move(step));
  }

  void Kernel(const std::string& name, const ffi::Function& function, const ffi::AnyView* arguments,
              int32_t count) {
    Step step;
    step.name = name;
    step.region = Region();
    step.function = WithoutExceptions(function);
    for (int32_t i = 0; i < count; ++i) {
      Operand operand = Use(arguments[i]);
      if (operand.value >= 0) {
        // Destination-passing style: what nothing has written yet is what the call writes; and its last
        // argument, into which it may write rows beside others that are there.
        operand.written = !defined_[operand.value] || i == count - 1;
        defined_[operand.value] = true;
      }
      if (IsOnDevice(operand)) step.kind = StepKind::kGpuKernel;
      step.operands.push_back(std::move(operand));
    }
    steps_.steps.push_back(std::move(step));
  }

  bool IsOnDevice(const Operand& operand) const {
    if (operand.value >= 0) return steps_.values[operand.value].on_device;
    const auto tensor = operand.fixed.try_cast<ffi::Tensor>();
    return tensor.has_value() && tensor->device().device_type != kDLCPU;
  }

  // The value that a tensor is, -1 where it is none: a weight.
  int Find(const DLTensor& tensor) const {
    const auto found = values_.find(Address(tensor));
    if (found == values_.end()) return -1;
    const std::vector<int64_t> shape(tensor.shape, tensor.shape + tensor.ndim);
    for (auto id = found->second.rbegin(); id != found->second.rend(); ++id) {
      if (steps_.values[*id].shape == shape) return *id;
    }
    return found->second.back();
  }

  int MemoryOf(int value) const { return steps_.values[value].memory; }
  std::string Region() const { return regions_.empty() ? "" : regions_.back(); }

  const bool shared_;
  Steps steps_;
  std::vector<bool> defined_;  // by value
  std::unordered_map<const void*, std::vector<int>> values_;  // by address
  std::unordered_map<int, Step> deferred_;  // by the value that they make
  std::vector<std::string> regions_;  // the lane functions that the VM is in
};

Steps Capture(const ffi::Module& vm, const std::vector<ffi::Tensor>& inputs,
              const std::vector<ffi::Any>& weights, bool shared) {
  auto capturing = std::make_shared<Capturing>(shared);
  std::vector<ffi::AnyView> arguments;
  for (const ffi::Tensor& input : inputs) {
    capturing->AddInput(input);
    arguments.emplace_back(input);
  }
  arguments.insert(arguments.end(), weights.begin(), weights.end());
  const auto instrument = TvmMember(vm, "set_instrument").value();
  instrument(Packed(
      [capturing](const ffi::AnyView* told, int32_t count, ffi::Any* result) {
        capturing->Note(told, count);
        *result = int64_t{0};  // go on
      }));
  ffi::Any result;
  TvmMember(vm, "main").value().CallPacked(
      arguments.data(), static_cast<int32_t>(arguments.size()), &result);
  capturing->SetOutputs(result);
  return capturing->Take();
}

}  // namespace syncnas::runner
