// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace syncnas::server {

// One line on standard error, at once.
void Log(const std::string& line);

}  // namespace syncnas::server
