// One way to synchronize the lanes; bare.c is written with OpenCL alone, ours.c is the project's.
#pragma once

#include <stddef.h>

// Both directions end with the value where it was wanted, and have the other lane's work in them: a
// kernel of 64 work-items, which adds 1 to the first 64 floats.
struct side {
  const char* name;
  // `memory`: "shared", "mapped" or "copied".
  void (*open)(const char* memory, const char* plugin, const char* kernel_file);
  // Gets ready for `count` floats, which are at `source` when they go to the GPU lane.
  void (*begin)(const float* source, size_t count);
  // Hands the floats to the GPU lane and waits until the kernel has read them.
  void (*to_gpu)(void);
  // Runs the kernel and gets the floats from the GPU lane.
  const float* (*to_cpu)(void);
  void (*end)(void);
};

extern const struct side bare, ours;

_Noreturn void fail(const char* what, int code);
