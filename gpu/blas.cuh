/* cuBLAS where it is installed, for products of many tokens: gpu/blas.cu. */
#ifndef TANDEM_GPU_BLAS_CUH
#define TANDEM_GPU_BLAS_CUH

#include "gpu/common.cuh"

/* Find the library and make a handle for the stream; silent when there is none, when it cannot be
 * used, or when no step is long enough: the products of gpu/gemm.cu serve then. */
void blas_open(struct gpu_stream *s);
void blas_close(struct gpu_stream *s);

/* dst = src w (+ bias) by cuBLAS. False, and nothing is done: too few tokens, or no cuBLAS. */
bool blas_gemm(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
               const float *bias, int n_tokens);

/* Of the scratch memory; of a workspace that belongs to the library alone; and, estimated, what it
 * allocates where nobody is asked. */
size_t blas_scratch(const struct gpu_limits *l);
size_t blas_workspace_bytes(const struct gpu_limits *l);
size_t blas_own_bytes(const struct gpu_limits *l);

#endif
