/* What a machine has and how fast it is, as far as placing a model and predicting its speed need to
 * know: measured (src/engine/machine.h), or stated by the user for a machine that is elsewhere.
 * Rates are 1e9 per second; 0 means "not known". */
#ifndef TANDEM_MODEL_RATES_H
#define TANDEM_MODEL_RATES_H

#include <stdbool.h>
#include <stdint.h>

#include "src/format/tensor.h"

struct rates {
    char cpu[96], gpu[128]; /* names; gpu empty: none */
    char link[24];         /* "PCIe 4.0 x16"; empty: not known */
    char no_gpu[160];      /* why there is none, where that is worth telling */
    int n_cores;           /* workers that the rates belong to */
    uint64_t ram_bytes;    /* that this process may take; UINT64_MAX: nobody knows */
    uint64_t vram_bytes;   /* free; 0: no GPU */

    double dram_gb_s;                /* plain reading with all workers */
    double dot_gb_s[N_TENSOR_TYPES]; /* weights of a type multiplied with one token */
    double gops[N_TENSOR_TYPES];     /* multiplications and additions with many tokens */
    double attention_gops;           /* of attention over a cached context: one token, all heads */
    double prompt_attention_gops;    /* the same with many tokens */

    double vram_gb_s, pcie_gb_s; /* reading VRAM, host to device */
    double gpu_tops;             /* dense arithmetic, 1e12 per second */
    double handoff_s;            /* GPU to CPU and back, once per mixture layer */
    double disk_gb_s;

    double idle_w, busy_w; /* CPU and memory, waiting and decoding; 0: not readable */
    double busy_gpu_w;     /* with the GPU, decoding there */
};

#endif
