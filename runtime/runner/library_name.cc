// SPDX-License-Identifier: Apache-2.0
#include "library_name.h"

#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

namespace syncnas::runner {

std::string LibraryName(const std::string& folder) {
  using Version = std::tuple<dev_t, ino_t, time_t, long>;
  static std::mutex mutex;
  static std::map<std::string, std::vector<Version>> loaded;
  const std::string file = "/model.so";
  struct stat found {};
  if (stat((folder + file).c_str(), &found) != 0) return folder + file;  // whoever loads it says why
  const Version version{found.st_dev, found.st_ino, found.st_mtim.tv_sec, found.st_mtim.tv_nsec};
  const std::lock_guard<std::mutex> lock(mutex);
  std::vector<Version>& versions = loaded[folder];
  const auto at = std::find(versions.begin(), versions.end(), version);
  std::string name = folder;
  for (auto earlier = versions.begin(); earlier != at; ++earlier) name += "/.";
  if (at == versions.end()) versions.push_back(version);
  return name + file;
}

}  // namespace syncnas::runner
