/* The complete device: every operation of src/device.h on the CPU.
 *
 * Weights are read where they lie (the mapping, or memory the loader filled). All working memory is
 * allocated at open for steps of at most max_tokens tokens; operations allocate nothing.
 * Results do not depend on the number of threads. */
#ifndef TANDEM_CPU_DEVICE_CPU_H
#define TANDEM_CPU_DEVICE_CPU_H

#include "src/base/pool.h"
#include "src/device.h"

struct device_cpu_options {
    struct pool *pool;    /* borrowed until close */
    int n_threads;        /* for device_cpu_bytes without a pool; 0: cpu_usable_cores() */
    unsigned isa;         /* bits of cpu/features.h: which kernels may be used */
    bool act_f32;         /* reference path: activations stay F32, nothing is quantized */
    int max_tokens;       /* per step */
    /* The largest of anything a step will ask for, to size the working memory. */
    int64_t max_cols;     /* widest input of a matmul */
    int64_t max_rows;     /* widest output of a matmul, the output head left out */
    int64_t n_ctx;        /* positions in the cache */
    int n_heads, head_width; /* widest attention: heads, and per head
                                max(head_dim, rank + rope, nope + rope + value) */
    int64_t cache_width;  /* elements per position of a layer: keys and values, or latents */
    int index_top_k;      /* rows that an indexer selects; 0: there is none */
    int n_routed, top_k;  /* 0: no experts */
    int64_t expert_size;
};

/* The weight types whose rows this device wants woven (src/format/weave.h), if they can be. */
void device_cpu_woven(const struct device_cpu_options *o, bool types[N_TENSOR_TYPES]);

bool device_cpu_open(struct device **out, const struct device_cpu_options *o, struct error *err);

/* Bytes device_cpu_open will allocate for these options (memory report, plan). */
size_t device_cpu_bytes(const struct device_cpu_options *o);

#endif
