// Times both sides, interleaved: `sync MEMORY PLUGIN KERNEL_FILE ROUNDS BYTES...` prints a line for each
// direction, size and side: direction, bytes, side, least and median microseconds. The bare side's odd
// rounds are printed apart too: their difference from all of them shows how much noise there is.
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "side.h"

enum { SIDES = 2, WARM_UP = 20 };
static const struct side* const sides[SIDES] = {&bare, &ours};

_Noreturn void fail(const char* what, int code) {
  fprintf(stderr, "%s failed with %d\n", what, code);
  exit(1);
}

static double now_us(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

static void report(const char* direction, size_t bytes, const char* name, double* us, int rounds) {
  qsort(us, rounds, sizeof(double), ascending);
  printf("%s %zu %s %.3f %.3f\n", direction, bytes, name, us[0], us[rounds / 2]);
}

static void report_all(const char* direction, size_t bytes, double* us[SIDES], int rounds) {
  double* odd = malloc(rounds * sizeof(double));
  for (int i = 0; i < rounds / 2; ++i) odd[i] = us[0][2 * i + 1];
  report(direction, bytes, "odd", odd, rounds / 2);
  for (int side = 0; side < SIDES; ++side) {
    report(direction, bytes, sides[side]->name, us[side], rounds);
  }
  free(odd);
}

// The host's last core: the driver's thread has the first (POCL_AFFINITY).
static void pin(void) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &cores);
  sched_setaffinity(0, sizeof(cores), &cores);
}

static void measure(size_t bytes, int rounds) {
  const size_t count = bytes / sizeof(float);
  float* source = aligned_alloc(64, bytes);
  double* in[SIDES];
  double* out[SIDES];
  for (int side = 0; side < SIDES; ++side) {
    in[side] = malloc(rounds * sizeof(double));
    out[side] = malloc(rounds * sizeof(double));
  }
  bare.begin(source, count);
  ours.begin(source, count);
  for (int round = -WARM_UP; round < rounds; ++round) {
    for (int turn = 0; turn < SIDES; ++turn) {
      // Who comes first changes every second round, so that odd rounds have both orders.
      const int at = ((round + WARM_UP) / 2 + turn) % SIDES;
      const struct side* side = sides[at];
      for (size_t i = 0; i < count; i += 16) source[i] = (float)(round + at);
      source[count - 1] = (float)round;
      const double start = now_us();
      side->to_gpu();
      const double middle = now_us();
      const float* result = side->to_cpu();
      const double stop = now_us();
      if (result[0] != source[0] + 2 || result[count - 1] != source[count - 1]) {
        fail("checking what came back", round);
      }
      if (round >= 0) in[at][round] = middle - start, out[at][round] = stop - middle;
    }
  }
  report_all("to_gpu", bytes, in, rounds);
  report_all("to_cpu", bytes, out, rounds);
  bare.end();
  ours.end();
  for (int side = 0; side < SIDES; ++side) free(in[side]), free(out[side]);
  free(source);
}

int main(int count, char** values) {
  if (count < 6) fail("reading the arguments", count);
  pin();
  for (int side = 0; side < SIDES; ++side) sides[side]->open(values[1], values[2], values[3]);
  for (int i = 5; i < count; ++i) measure(strtoull(values[i], NULL, 10), atoi(values[4]));
  return 0;
}
