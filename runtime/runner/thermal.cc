// SPDX-License-Identifier: Apache-2.0
#include "thermal.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace syncnas::runner {

double HottestCelsius() {
  double hottest = -1;
  for (int zone = 0;; ++zone) {
    // Zones are numbered from 0 without gaps.
    std::ifstream file("/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/temp");
    if (!file) return hottest;
    double value = 0;
    if (!(file >> value)) continue;  // a sensor that is switched off
    // Thousandths by the kernel's definition; some old vendor drivers give whole degrees.
    hottest = std::max(hottest, value >= 1000 ? value / 1000 : value);
  }
}

}  // namespace syncnas::runner
