// SPDX-License-Identifier: Apache-2.0
#include "../include/syncnas/c_api.h"

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/error.h>

#include <algorithm>
#include <exception>
#include <string>

#include "runner.h"

struct SyncnasModel {
  explicit SyncnasModel(const char* folder) : runner(folder) {}

  syncnas::runner::Runner runner;
  std::string profile, description;
};

namespace {

using syncnas::runner::TensorSpec;

thread_local std::string last_error;

void Note(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  last_error = std::move(text);
}

// Runs `work` and returns its result, or `otherwise` where it throws. No exception leaves this
// library: the caller's C++ library need not be ours.
template <typename Result, typename Work>
Result Guarded(Result otherwise, const Work& work) {
  try {
    return work();
  } catch (const tvm::ffi::Error& error) {  // without the stack trace that what() has
    Note(error.message());
  } catch (const std::exception& error) {
    Note(error.what());
  } catch (...) {
    Note("an unknown C++ exception");
  }
  return otherwise;
}

int Describe(const std::vector<TensorSpec>& specs, size_t index, SyncnasTensor* tensor) {
  return Guarded(1, [&] {
    const TensorSpec& spec = specs.at(index);
    size_t items = 1;
    for (int64_t extent : spec.shape) items *= static_cast<size_t>(extent);
    const size_t bytes =
        tvm::ffi::GetDataSize(items, tvm::ffi::StringToDLDataType(spec.dtype));
    *tensor = {spec.name.c_str(), spec.dtype.c_str(), spec.shape.data(), spec.shape.size(), bytes};
    return 0;
  });
}

}  // namespace

const char* syncnas_error(void) { return last_error.c_str(); }

SyncnasModel* syncnas_load(const char* folder) {
  return Guarded<SyncnasModel*>(nullptr, [&] { return new SyncnasModel(folder); });
}

void syncnas_free(SyncnasModel* model) {
  Guarded(0, [&] {
    delete model;
    return 0;
  });
}

size_t syncnas_input_count(const SyncnasModel* model) {
  return model->runner.manifest().inputs.size();
}

size_t syncnas_output_count(const SyncnasModel* model) {
  return model->runner.manifest().outputs.size();
}

int syncnas_input(const SyncnasModel* model, size_t index, SyncnasTensor* tensor) {
  return Describe(model->runner.manifest().inputs, index, tensor);
}

int syncnas_output(const SyncnasModel* model, size_t index, SyncnasTensor* tensor) {
  return Describe(model->runner.manifest().outputs, index, tensor);
}

int syncnas_set_input(SyncnasModel* model, size_t index, const void* data, size_t bytes) {
  return Guarded(1, [&] {
    model->runner.SetInput(static_cast<int64_t>(index), data, bytes);
    return 0;
  });
}

int syncnas_run(SyncnasModel* model) {
  return Guarded(1, [&] {
    model->runner.Run();
    return 0;
  });
}

const void* syncnas_output_data(const SyncnasModel* model, size_t index) {
  return Guarded<const void*>(nullptr, [&]() -> const void* {
    const DLTensor& view =
        *model->runner.GetOutput(static_cast<int64_t>(index)).GetDLTensorPtr();
    return static_cast<const char*>(view.data) + view.byte_offset;
  });
}

int syncnas_time(SyncnasModel* model, size_t repeat, double* latencies_us) {
  return Guarded(1, [&] {
    const auto measured = model->runner.Time(static_cast<int64_t>(repeat), 0);
    std::copy(measured.begin(), measured.end(), latencies_us);
    return 0;
  });
}

const char* syncnas_profile(SyncnasModel* model) {
  return Guarded<const char*>(nullptr, [&] {
    model->profile = model->runner.Profile();
    return model->profile.c_str();
  });
}

const char* syncnas_describe(SyncnasModel* model) {
  return Guarded<const char*>(nullptr, [&] {
    model->description = model->runner.Describe();
    return model->description.c_str();
  });
}
