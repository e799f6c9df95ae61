// SPDX-License-Identifier: Apache-2.0
//
// Runs a folder that `python -m syncnas_tvm.compile` wrote, without Python.
//
//     syncnas::Model model("out");
//     model.SetInput(0, pixels.data(), pixels.size() * sizeof(float));
//     model.Run();
//     const syncnas::Output logits = model.GetOutput(0);
//
// Everything that goes wrong is a std::runtime_error whose text is one line. A Model belongs to one
// thread at a time. Link with libsyncnas_opencl.so.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "c_api.h"

namespace syncnas {

// An input or an output: the ONNX model's own name, its shape, and its type as numpy writes it.
struct TensorInfo {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype;
  size_t bytes = 0;
};

// Valid until the model's next Run.
struct Output {
  const void* data;
  size_t bytes;
};

class Model {
 public:
  // Loads the folder and uploads the GPU lane's weights. The OpenCL driver is opened only if the
  // model uses the GPU.
  explicit Model(const std::string& folder) : model_(syncnas_load(folder.c_str()), &syncnas_free) {
    if (model_ == nullptr) Fail();
    for (size_t i = 0; i < syncnas_input_count(get()); ++i) inputs_.push_back(Info(syncnas_input, i));
    for (size_t i = 0; i < syncnas_output_count(get()); ++i) {
      outputs_.push_back(Info(syncnas_output, i));
    }
  }

  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }

  // Copies `bytes` bytes, which have to be the input's size, row-major.
  void SetInput(size_t index, const void* data, size_t bytes) {
    if (syncnas_set_input(get(), index, data, bytes) != 0) Fail();
  }
  // Runs once; blocks until the outputs are there.
  void Run() {
    if (syncnas_run(get()) != 0) Fail();
  }
  Output GetOutput(size_t index) const {
    const void* data = syncnas_output_data(get(), index);
    if (data == nullptr) Fail();
    return {data, outputs_[index].bytes};
  }

  // Latencies of `repeat` runs in microseconds.
  std::vector<double> Time(size_t repeat) {
    std::vector<double> latencies_us(repeat);
    if (syncnas_time(get(), repeat, latencies_us.data()) != 0) Fail();
    return latencies_us;
  }
  // One run's kernels on both lanes, as JSON: "events" of the thread that runs the model and
  // "queue", the GPU's commands, both in nanoseconds of the device's own clock.
  std::string Profile() { return Text(syncnas_profile(get())); }
  // Which cores and device it runs on, as JSON.
  std::string Describe() const { return Text(syncnas_describe(get())); }

 private:
  [[noreturn]] static void Fail() { throw std::runtime_error(syncnas_error()); }
  static std::string Text(const char* text) {
    if (text == nullptr) Fail();
    return text;
  }
  template <typename Query>
  TensorInfo Info(const Query& query, size_t index) const {
    SyncnasTensor tensor;
    if (query(get(), index, &tensor) != 0) Fail();
    return {tensor.name, {tensor.shape, tensor.shape + tensor.dimensions}, tensor.dtype, tensor.bytes};
  }
  SyncnasModel* get() const { return model_.get(); }

  std::unique_ptr<SyncnasModel, decltype(&syncnas_free)> model_;
  std::vector<TensorInfo> inputs_, outputs_;
};

}  // namespace syncnas
