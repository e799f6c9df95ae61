// SPDX-License-Identifier: Apache-2.0
//
// Records what the Relax VM does in one run, so that later runs need no VM.
#pragma once

#include <tvm/ffi/extra/module.h>

#include <vector>

#include "steps.h"

namespace syncnas::runner {

// Runs `main` of `vm` once on `inputs` (host tensors) followed by `weights`. Shapes are static, so
// every run makes the same calls. Where `shared`, the lanes see each other's memory: a transfer is
// no step then, but one memory for both.
//
// Throws where the model calls something whose result cannot be foreseen.
Steps Capture(const tvm::ffi::Module& vm, const std::vector<tvm::ffi::Tensor>& inputs,
              const std::vector<tvm::ffi::Any>& weights, bool shared);

}  // namespace syncnas::runner
