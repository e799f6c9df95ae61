// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace syncnas::runner {

// The hottest of the kernel's thermal zones in degrees Celsius; -1 where none can be read.
double HottestCelsius();

}  // namespace syncnas::runner
