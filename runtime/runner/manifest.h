// SPDX-License-Identifier: Apache-2.0
//
// What a compiled folder says of itself (manifest.json), as far as running it needs.
#pragma once

#include <string>
#include <vector>

#include "tensor_spec.h"

namespace syncnas::runner {

struct Manifest {
  std::string target;
  bool uses_gpu = false;
  std::vector<int> cpus;  // cores of the CPU lane; empty: any
  int cpu_threads = 1;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
};

// Reads FOLDER/manifest.json; throws where it is missing, damaged, or where the folder was compiled
// with another TVM than this runtime is (the VM's bytecode changes between releases).
Manifest ReadManifest(const std::string& folder);

// The same of the file's text.
Manifest ParseManifest(const std::string& text);

}  // namespace syncnas::runner
