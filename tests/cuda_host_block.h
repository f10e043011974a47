/* Between the parts of the emulation: cuda_host.cc runs blocks, cuda_host_api.cc is the runtime. */
#ifndef TANDEM_TESTS_CUDA_HOST_BLOCK_H
#define TANDEM_TESTS_CUDA_HOST_BLOCK_H

#include "tests/cuda_host.h"

/* Run all blocks of a launch in this host thread; false when a block was stopped. */
bool cuda_host_run(const char *kernel, dim3 blocks, int threads, size_t shared_bytes,
                   const std::function<void()> &body, uint64_t order);

/* Is [at, at + bytes) shared memory of the block that runs? */
bool cuda_host_is_shared(const void *at, size_t bytes);

/* A block stopped for this reason. */
void cuda_host_stopped(const char *message);
bool cuda_host_device_failed();

#endif
