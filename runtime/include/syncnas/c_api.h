/* SPDX-License-Identifier: Apache-2.0
 *
 * The runner's C interface; see model.h for the C++ one, which is made of it. Plain C, so that an
 * app and this library may be built with different compilers and C++ libraries.
 *
 * Functions that return a pointer return NULL, and the ones that return an int return nonzero, where
 * something went wrong; syncnas_error() then says what, in one line.
 */
#ifndef SYNCNAS_C_API_H_
#define SYNCNAS_C_API_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SYNCNAS_API __attribute__((visibility("default")))

/* A compiled folder in memory. Belongs to one thread at a time. */
typedef struct SyncnasModel SyncnasModel;

/* An input or an output. The pointers belong to the model. */
typedef struct {
  const char* name;
  const char* dtype; /* as numpy writes it: "float32" */
  const int64_t* shape;
  size_t dimensions;
  size_t bytes;
} SyncnasTensor;

/* What went wrong in this thread's last call that failed. */
SYNCNAS_API const char* syncnas_error(void);

/* Loads a folder that `python -m syncnas_tvm.compile` wrote and uploads the GPU lane's weights. */
SYNCNAS_API SyncnasModel* syncnas_load(const char* folder);
SYNCNAS_API void syncnas_free(SyncnasModel* model);

SYNCNAS_API size_t syncnas_input_count(const SyncnasModel* model);
SYNCNAS_API size_t syncnas_output_count(const SyncnasModel* model);
SYNCNAS_API int syncnas_input(const SyncnasModel* model, size_t index, SyncnasTensor* tensor);
SYNCNAS_API int syncnas_output(const SyncnasModel* model, size_t index, SyncnasTensor* tensor);

/* Copies `bytes` bytes, which have to be the input's size. */
SYNCNAS_API int syncnas_set_input(SyncnasModel* model, size_t index, const void* data, size_t bytes);
SYNCNAS_API int syncnas_run(SyncnasModel* model);
/* The output's data, valid until the next run; `tensor` bytes long as syncnas_output says. */
SYNCNAS_API const void* syncnas_output_data(const SyncnasModel* model, size_t index);

/* Runs `repeat` times; latencies_us takes as many numbers. */
SYNCNAS_API int syncnas_time(SyncnasModel* model, size_t repeat, double* latencies_us);
/* JSON, valid until the next call of the same function. */
SYNCNAS_API const char* syncnas_profile(SyncnasModel* model);
SYNCNAS_API const char* syncnas_describe(SyncnasModel* model);

#ifdef __cplusplus
}
#endif

#endif /* SYNCNAS_C_API_H_ */
