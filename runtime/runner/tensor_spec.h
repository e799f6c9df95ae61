// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace syncnas::runner {

// An input or an output as the manifest describes it; `dtype` as numpy writes it.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype;
};

}  // namespace syncnas::runner
