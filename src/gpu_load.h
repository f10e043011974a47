/* The way to the GPU library: tandem-gpu.so, opened at run time, so that one program starts on every
 * machine and says in one line what it found.
 *
 * Looked for in this order: the file that $TANDEM_GPU names; beside the program; PREFIX/lib/tandem. */
#ifndef TANDEM_GPU_LOAD_H
#define TANDEM_GPU_LOAD_H

#include "gpu/gpu.h"

/* The library; NULL and ERR_DEVICE with the reason: there is none, it does not open, it belongs to
 * another version. Opened once and never closed; not thread-safe. A library without a usable card is
 * a success here: its count() says why. */
const struct gpu_library *gpu_load(struct error *err);

#endif
