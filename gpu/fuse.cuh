/* Launches saved: what a device asks for one by one, queued as fewer kernels where they fit.
 *
 * A sum waits for the norm of its rows; two products of the same rows wait for SwiGLU. Whatever else
 * comes, what waits goes first (fuse_settle), so the order of effects is that of the calls, with one
 * exception: rows that SwiGLU turns into others are not written themselves (src/device.h allows it).
 * Norms leave their rows in bytes as well, for the products that follow.
 *
 * Launches of a decode layer with low-rank queries and a shared expert, routed experts elsewhere:
 *
 *     plain    norm q_a norm q_b rope kv_a norm rope store k_b append attend merge v_b o_proj add
 *              norm router top-k gate up swiglu down add3, and 5 x encode                       = 29
 *     fused    add3-norm q_a norm q_b rope kv_a norm rope store k_b attend merge v_b encode o_proj
 *              add-norm router top-k gate-up-swiglu encode down                                 = 21 */
#ifndef TANDEM_GPU_FUSE_CUH
#define TANDEM_GPU_FUSE_CUH

#include "gpu/q8.cuh"

/* Queue what waits. */
void fuse_settle(struct gpu_stream *s);
/* What waits, and what lies in bytes, belongs to a step that is over. */
void fuse_reset(struct gpu_stream *s);
/* The stream for a launch that writes `written`: what waits goes first. */
struct gpu_stream *fuse_before(struct gpu_stream *s, struct rows written, int n_tokens);

/* The launchers of gpu/gpu.h, possibly later and together. */
void fuse_matmul(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
                 const float *bias, int n_tokens);
void fuse_swiglu(struct gpu_stream *s, struct rows dst, struct rows gate, struct rows up,
                 int n_tokens);
void fuse_add3(struct gpu_stream *s, struct rows dst, struct rows a, struct rows b, struct rows c,
               int n_tokens); /* c.data NULL: of two */
void fuse_rmsnorm(struct gpu_stream *s, struct rows dst, struct rows src, const float *weight,
                  int64_t n, int n_groups, float eps, int n_tokens);

#endif
