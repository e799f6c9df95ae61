// SPDX-License-Identifier: Apache-2.0
#include "device_selection.h"

#include <algorithm>
#include <cctype>

#include "opencl_error.h"
#include "opencl_loader.h"

namespace syncnas::opencl {

namespace {

std::string DeviceName(cl_device_id id) {
  size_t bytes = 0;
  if (CL().clGetDeviceInfo(id, kClDeviceName, 0, nullptr, &bytes) != kClSuccess) return "unnamed";
  std::string name(bytes, '\0');
  CL().clGetDeviceInfo(id, kClDeviceName, bytes, name.data(), nullptr);
  name.resize(std::min(name.find('\0'), name.size()));
  return name;
}

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool IsIndex(const std::string& text) {
  return text.size() <= 6 && std::all_of(text.begin(), text.end(),
                                         [](unsigned char c) { return std::isdigit(c) != 0; });
}

// Position of the wanted device, or entries.size() when there is no match.
size_t Match(const std::vector<DeviceEntry>& entries, const std::string& wish) {
  if (IsIndex(wish)) return std::min<size_t>(std::stoul(wish), entries.size());
  const std::string part = Lower(wish);
  const auto found = std::find_if(entries.begin(), entries.end(), [&](const DeviceEntry& entry) {
    return Lower(entry.name).find(part) != std::string::npos;
  });
  return static_cast<size_t>(found - entries.begin());
}

std::string Listing(const std::vector<DeviceEntry>& entries) {
  std::string text;
  for (size_t i = 0; i < entries.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(i) + ": " + entries[i].name;
  }
  return text;
}

}  // namespace

std::vector<DeviceEntry> EnumerateDevices(std::string* problem) {
  std::vector<DeviceEntry> entries;
  if (FindOpenCL(problem) == nullptr) {
    *problem += std::string("; ") + kInstallHint;
    return entries;
  }
  // Loaders disagree on what "no platform" looks like: an error code of its own or a count of zero.
  cl_uint count = 0;
  const cl_int code = CL().clGetPlatformIDs(0, nullptr, &count);
  if (code != kClSuccess && code != kClPlatformNotFoundKhr) {
    *problem = "clGetPlatformIDs failed with " + ErrorName(code) + "; " + kInstallHint;
    return entries;
  }
  std::vector<cl_platform_id> platforms(code == kClSuccess ? count : 0);
  if (!platforms.empty()) CL().clGetPlatformIDs(count, platforms.data(), nullptr);
  for (cl_platform_id platform : platforms) {
    cl_uint devices = 0;
    if (CL().clGetDeviceIDs(platform, kClDeviceTypeAll, 0, nullptr, &devices) != kClSuccess) continue;
    std::vector<cl_device_id> ids(devices);
    if (CL().clGetDeviceIDs(platform, kClDeviceTypeAll, devices, ids.data(), nullptr) != kClSuccess) {
      continue;
    }
    for (cl_device_id id : ids) {
      cl_bitfield type = 0;
      CL().clGetDeviceInfo(id, kClDeviceType, sizeof(type), &type, nullptr);
      entries.push_back({platform, id, DeviceName(id), type});
    }
  }
  if (entries.empty()) {
    *problem = std::string(platforms.empty() ? "there is an OpenCL library but no platform (driver)"
                                             : "there is an OpenCL platform but it has no device") +
               "; " + kInstallHint;
  }
  return entries;
}

std::vector<DeviceEntry> OrderDevices(std::vector<DeviceEntry> entries, const std::string& wish,
                                      std::string* problem) {
  if (entries.empty()) return entries;
  size_t first = 0;
  if (!wish.empty()) {
    first = Match(entries, wish);
    if (first == entries.size()) {
      *problem = "SYNCNAS_OPENCL_DEVICE='" + wish + "' matches no device; give an index or a part " +
                 "of a name of: " + Listing(entries);
      return entries;
    }
  } else {
    const auto gpu = std::find_if(entries.begin(), entries.end(), [](const DeviceEntry& entry) {
      return (entry.type & kClDeviceTypeGpu) != 0;
    });
    if (gpu != entries.end()) first = static_cast<size_t>(gpu - entries.begin());
  }
  std::rotate(entries.begin(), entries.begin() + first, entries.begin() + first + 1);
  return entries;
}

}  // namespace syncnas::opencl
