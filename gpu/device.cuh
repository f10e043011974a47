/* The device of one card from inside: what its files share (src/device.h is the outside).
 *
 *     gpu/device_gpu.cu    opening and closing, memory, each operation as its launcher
 *     gpu/device_step.cu   a step from begin to end, and the records of steps that come again
 *
 * Everything an operation needs beside its arguments lies in device memory before the step begins,
 * in one block:
 *
 *     step | tokens [max_tokens]                    written by begin, in one copy
 *     ids, weights [max_tokens, top_k]              the router's choice
 *     selected [max_tokens, index_top_k], n_selected [max_tokens]  the indexer's
 *     frequency [pairs] | cosine, sine [max_tokens, pairs]     of each rope
 *     logits [logits_rows, n_vocab]                 a piece of the head's output on its way out
 *
 * Operations queue and return; the first failure is latched in the stream and reported by end. */
#ifndef TANDEM_GPU_DEVICE_CUH
#define TANDEM_GPU_DEVICE_CUH

#include "gpu/fuse.cuh"

#define N_ROPES 4 /* with angles at hand: V4 has two, and their inverses */

struct angles {
    const struct rope *rope; /* NULL: free */
    uint64_t step;           /* for which one cosine and sine are there */
    double *frequency;
    float *cosine, *sine;
};

/* What makes two steps alike, but for the numbers in struct gpu_step. */
struct kind {
    int n_tokens, n_logits;
    int64_t kv_bound;
    uint64_t cache;
    enum mla_form mla_form;
};

struct recorded {
    struct kind kind; /* n_tokens 0: free */
    struct gpu_record *record; /* NULL: seen once */
    int logits_queued;
    uint64_t used;    /* number of the last step of this kind */
};

struct gpu_device {
    struct device base; /* first */
    struct gpu_device_options options;
    struct gpu_stream *s;
    struct step step; /* as begin was told; tokens and logits are host memory */
    uint64_t n_steps;
    int64_t kv_bound;
    struct gpu_step *host_step; /* pinned, the tokens behind it */
    void *block;
    struct gpu_step *state;
    int32_t *ids;
    float *weights;
    int32_t *selected, *n_selected;
    int index_top_k; /* of the indexer that selected them */
    struct angles angles[N_ROPES];
    double *host_frequency; /* pinned [N_ROPES, pairs] */
    float *logits;
    int logits_rows, logits_queued; /* rows of a piece; of the last piece, to be fetched by end */
    float *host_piece;  /* pinned, as large as logits or larger */
    struct error early; /* of a wait before end */
    struct recorded records[GPU_RECORDS];
    struct recorded *now; /* the running step's, or NULL */
    bool refused;         /* a record could not be made: no more are tried */
    const struct experts *experts; /* between experts_begin and experts_end */
    struct rows experts_src;
};

static inline struct gpu_device *gpu(struct device *d)
{
    return (struct gpu_device *)d;
}

/* The tokens of a step, on the host's side or the card's. */
static inline int32_t *tokens_behind(struct gpu_step *step)
{
    return (int32_t *)(step + 1);
}

static inline size_t step_bytes(int n_tokens)
{
    return sizeof(struct gpu_step) + (size_t)n_tokens * sizeof(int32_t);
}

static inline int n_tokens(struct device *d)
{
    return gpu(d)->step.n_tokens;
}

/* ---- gpu/device_step.cu ---- */

/* Rows of struct device_ops. */
void device_begin(struct device *dev, const struct step *s);
bool device_replay(struct device *dev);
bool device_record(struct device *dev);
bool device_recorded(struct device *dev, bool ok, struct error *err);
bool device_end(struct device *dev, struct error *err);

/* Where nobody else holds the queueing thread back, it stays a layer ahead of the card and no more,
 * so that a step that was cancelled ends soon. Called once per layer. */
void device_keep_pace(struct gpu_device *d);

/* Wait for all that is queued, the partner's part first: that may take as long as it likes. */
bool device_finish(struct gpu_device *d, struct error *err);

#endif
