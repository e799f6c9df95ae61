// SPDX-License-Identifier: Apache-2.0
//
// Runs a compiled folder on a device without Python:
//
//     syncnas-run FOLDER [--input=FILE.npy]... [--repeat=N] [--output=PREFIX] [--profile=FILE]
//
// Prints the largest values of each output and the latency. An app does the same with
// syncnas/model.h alone.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "npy.h"
#include "syncnas/model.h"

namespace {

constexpr size_t kTop = 5;

struct Options {
  std::string folder;
  std::vector<std::string> inputs;
  size_t repeat = 20;
  std::string output, profile;
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto value = [&](const char* flag) -> const char* {
      const size_t length = std::strlen(flag);
      return argument.compare(0, length, flag) == 0 ? argv[i] + length : nullptr;
    };
    if (const char* input = value("--input=")) {
      options.inputs.emplace_back(input);
    } else if (const char* repeat = value("--repeat=")) {
      options.repeat = std::strtoul(repeat, nullptr, 10);
    } else if (const char* output = value("--output=")) {
      options.output = output;
    } else if (const char* profile = value("--profile=")) {
      options.profile = profile;
    } else if (argument[0] != '-' && options.folder.empty()) {
      options.folder = argument;
    } else {
      throw std::runtime_error("unknown argument '" + argument + "'");
    }
  }
  if (options.folder.empty() || options.repeat < 1 || options.repeat > 1000000) {
    throw std::runtime_error(
        "use: syncnas-run FOLDER [--input=FILE.npy]... [--repeat=N] [--output=PREFIX] "
        "[--profile=FILE]");
  }
  return options;
}

void SetInputs(syncnas::Model* model, const std::vector<std::string>& files) {
  if (files.size() > model->inputs().size()) {
    throw std::runtime_error("the model has " + std::to_string(model->inputs().size()) + " inputs");
  }
  for (size_t i = 0; i < files.size(); ++i) {
    const syncnas::TensorInfo& info = model->inputs()[i];
    const NpyArray array = ReadNpy(files[i]);
    if (array.shape != info.shape || array.type != NpyType(info.dtype)) {
      throw std::runtime_error(files[i] + ": input '" + info.name + "' has another shape or type");
    }
    model->SetInput(i, array.data.data(), array.data.size());
  }
}

void PrintLargest(const syncnas::TensorInfo& info, const syncnas::Output& output) {
  if (info.dtype != "float32") return;
  const auto* values = static_cast<const float*>(output.data);
  std::vector<size_t> order(output.bytes / sizeof(float));
  std::iota(order.begin(), order.end(), 0);
  const size_t count = std::min(kTop, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](size_t a, size_t b) { return values[a] > values[b]; });
  std::printf("output '%s', largest values\n", info.name.c_str());
  for (size_t i = 0; i < count; ++i) std::printf("%8zu  %g\n", order[i], values[order[i]]);
}

void WriteOutput(const std::string& path, const syncnas::TensorInfo& info,
                 const syncnas::Output& output) {
  const char* data = static_cast<const char*>(output.data);
  WriteNpy(path, {NpyType(info.dtype), info.shape, std::vector<char>(data, data + output.bytes)});
}

void Run(const Options& options) {
  syncnas::Model model(options.folder);
  std::printf("%s\n", model.Describe().c_str());
  SetInputs(&model, options.inputs);
  model.Run();
  for (size_t i = 0; i < model.outputs().size(); ++i) {
    const syncnas::TensorInfo& info = model.outputs()[i];
    PrintLargest(info, model.GetOutput(i));
    if (!options.output.empty()) {
      WriteOutput(options.output + std::to_string(i) + ".npy", info, model.GetOutput(i));
    }
  }
  std::vector<double> us = model.Time(options.repeat);
  std::sort(us.begin(), us.end());
  std::printf("latency  min %.2f ms, median %.2f ms, p90 %.2f ms (%zu runs)\n", us.front() / 1e3,
              us[us.size() / 2] / 1e3, us[us.size() * 9 / 10] / 1e3, options.repeat);
  if (!options.profile.empty()) std::ofstream(options.profile) << model.Profile() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Run(Parse(argc, argv));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
