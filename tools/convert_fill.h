/* The work of a conversion: read rows, decode, put them in order, encode, write.
 *
 * The unit is a chunk: some rows of one matrix of one tensor, about a million elements. Each thread
 * has the buffers for one chunk, so memory does not grow with the model; each chunk goes to its own
 * place in the file, so the bytes are the same for any number of threads. */
#ifndef TANDEM_TOOLS_CONVERT_FILL_H
#define TANDEM_TOOLS_CONVERT_FILL_H

#include "src/format/gguf_write.h"
#include "tools/convert_plan.h"

/* Called between chunks with the bytes written so far; false stops (ERR_INTERRUPTED). */
typedef bool convert_tick(void *ctx, uint64_t done_bytes);

/* Tensor i of the plan is tensor i of the writer, which has begun. Wrong numbers in the checkpoint
 * (NaN, infinity, a value that the type cannot hold) are ERR_FILE naming tensor, row and column. */
bool convert_fill(const struct plan *p, struct gguf_writer *w, int n_threads, convert_tick *tick,
                  void *ctx, struct error *err);

/* Heap memory that n_threads take. */
uint64_t convert_memory(const struct plan *p, int n_threads);

#endif
