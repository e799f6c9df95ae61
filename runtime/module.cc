// SPDX-License-Identifier: Apache-2.0
//
// A TVM module of OpenCL kernels: built lazily, launched asynchronously, saved and loaded in TVM's
// own format. Code compiled where no OpenCL runtime was loaded runs here as well.
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "boundary.h"
#include "device.h"
#include "device_api.h"
#include "kernel_signature.h"
#include "launch.h"
#include "module_format.h"
#include "opencl_error.h"
#include "opencl_loader.h"
#include "program.h"

namespace syncnas::opencl {

namespace {

namespace ffi = tvm::ffi;

class OpenCLModule final : public ffi::ModuleObj {
 public:
  OpenCLModule(ModuleContent content, ffi::Map<ffi::String, ffi::String> sources)
      : content_(std::move(content)), sources_(std::move(sources)) {
    if (content_.format != "cl") {
      TVM_FFI_THROW(ValueError) << "OpenCL: a module in the format '" << content_.format
                                << "' cannot be run, only OpenCL C source ('cl')";
    }
  }

  const char* kind() const final { return "opencl"; }
  int GetPropertyMask() const final {
    return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
  }
  ffi::Bytes SaveToBytes() const final { return ffi::Bytes(Serialize(content_)); }

  ffi::String InspectSource(const ffi::String& format) const final {
    if (auto source = sources_.Get(format)) return *source;
    return format.empty() || format == "cl" ? ffi::String(content_.code) : ffi::String();
  }

  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    const auto info = content_.functions.Get(name);
    if (!info.has_value()) return std::nullopt;
    // The function keeps the module alive: it uses its programs.
    ffi::ObjectPtr<OpenCLModule> self = ffi::GetObjectPtr<OpenCLModule>(this);
    return Packed(
        [self, signature = KernelSignature(*info), kernel = Intern((*info)->name)](
            const ffi::AnyView* values, int32_t count, ffi::Any*) {
          self->Run(signature, kernel, reinterpret_cast<const TVMFFIAny*>(values), count);
        });
  }

 private:
  void Run(const KernelSignature& signature, const std::string* name, const TVMFFIAny* values,
           int32_t count) {
    signature.CheckCount(count);
    const LaunchShape shape = signature.Shape(values + signature.argument_count());
    if (shape.global[0] == 0 || shape.global[1] == 0 || shape.global[2] == 0) return;
    Device& device = LaunchDevice(signature, values);
    Stream& stream = device.CurrentStream();
    Program& program = ProgramFor(device);
    if (LaunchRecorder* recorder = LaunchRecorder::Current()) {
      const cl_kernel own = program.Create(*name);
      std::vector<Buffer*> buffers;
      ForEachBuffer(signature, values, [&](Buffer* buffer) { buffers.push_back(buffer); });
      recorder->launches.push_back(std::make_unique<Launch>(own, name, shape, std::move(buffers)));
      SetArguments(signature, *name, values, own, stream);
      return;
    }
    Program::Loan kernel(program, *name);
    SetArguments(signature, *name, values, kernel.get(), stream);
    const uint64_t number = EnqueueKernel(stream, kernel.get(), name, shape);
    ForEachBuffer(signature, values,
                  [&](Buffer* buffer) { buffer->MarkUsed(stream.id(), number); });
  }

  template <typename Use>
  static void ForEachBuffer(const KernelSignature& signature, const TVMFFIAny* values,
                            const Use& use) {
    for (size_t i = 0; i < signature.argument_count(); ++i) {
      if (!signature.IsBuffer(i)) continue;
      if (Buffer* buffer = signature.BufferArgument(values[i], i)) use(buffer);
    }
  }

  // Where the kernel's data is; a kernel without buffers runs on the thread's current device.
  static Device& LaunchDevice(const KernelSignature& signature, const TVMFFIAny* values) {
    for (size_t i = 0; i < signature.argument_count(); ++i) {
      if (!signature.IsBuffer(i)) continue;
      if (Buffer* buffer = signature.BufferArgument(values[i], i)) return buffer->device;
    }
    return OpenDevice(CurrentDeviceIndex());
  }

  static void SetArguments(const KernelSignature& signature, const std::string& name,
                           const TVMFFIAny* values, cl_kernel kernel, Stream& stream) {
    for (size_t i = 0; i < signature.argument_count(); ++i) {
      const auto index = static_cast<cl_uint>(i);
      cl_int code = kClSuccess;
      if (signature.IsBuffer(i)) {
        Buffer* buffer = signature.BufferArgument(values[i], i);
        if (buffer != nullptr) CheckSameDevice(*buffer, stream, name, i);
        cl_mem memory = buffer != nullptr ? buffer->memory : nullptr;
        code = CL().clSetKernelArg(kernel, index, sizeof(memory), &memory);
      } else {
        const ScalarBits scalar = signature.ScalarArgument(values[i], i);
        code = CL().clSetKernelArg(kernel, index, scalar.size, scalar.bytes.data());
      }
      if (code != kClSuccess) {
        ThrowCallError(code, {"clSetKernelArg", stream.device().name(), name,
                              "argument " + std::to_string(i)});
      }
    }
  }

  static void CheckSameDevice(const Buffer& buffer, const Stream& stream, const std::string& name,
                              size_t index) {
    if (&buffer.device == &stream.device()) return;
    TVM_FFI_THROW(ValueError) << "OpenCL: argument " << index << " of kernel '" << name
                              << "' is on device '" << buffer.device.name() << "', the others are on '"
                              << stream.device().name() << "'";
  }

  Program& ProgramFor(Device& device) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto index = static_cast<size_t>(device.index());
    if (programs_.size() <= index) programs_.resize(index + 1);
    if (programs_[index] == nullptr) {
      programs_[index] = std::make_unique<Program>(device, content_.code);
    }
    return *programs_[index];
  }

  const ModuleContent content_;
  const ffi::Map<ffi::String, ffi::String> sources_;  // only for InspectSource, never saved
  std::mutex mutex_;
  std::vector<std::unique_ptr<Program>> programs_;  // by device index
};

ffi::Module MakeModule(ModuleContent content, ffi::Map<ffi::String, ffi::String> sources) {
  return ffi::Module(ffi::make_object<OpenCLModule>(std::move(content), std::move(sources)));
}

TVM_FFI_STATIC_INIT_BLOCK() {
  DefineGlobals()
      .def("ffi.Module.create.opencl",
           [](ffi::Bytes code, ffi::String format, FunctionInfoMap functions,
              ffi::Map<ffi::String, ffi::String> sources) {
             return MakeModule({format, std::move(functions), std::string(code.data(), code.size())},
                               std::move(sources));
           })
      .def("ffi.Module.load_from_bytes.opencl", [](const ffi::Bytes& bytes) {
        return MakeModule(Deserialize(bytes.data(), bytes.size()), {});
      });
}

}  // namespace

}  // namespace syncnas::opencl
