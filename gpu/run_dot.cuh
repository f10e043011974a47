/* Encoded rows times activations in bytes: the integer GEMV of one layer's matrices and of experts.
 *
 * ## Bytes and cycles
 * The bound is the bytes of the matrix over VRAM bandwidth. To reach it a card needs latency times
 * bandwidth in flight: 2.0 TB/s x 0.6 us over 108 SMs are 11 KB per SM (A100), 15 KB (H100 SXM), 6 KB
 * (RTX 5090), 4 KB (RTX 4090), 38 KB (B200). A lane asks for two runs of 32 weights at once, a warp
 * for 64 runs: 1.15 KB of Q4_K or Q4_0, 2.2 KB of Q8_0, 1.7 KB of Q6_K; at most 128 registers leave
 * room for 16 warps per SM (and most types take fewer): 18 to 35 KB in flight. Narrow matrices, with
 * fewer rows than keep the warps of a card busy, give a row to all warps of a block (split).
 *
 * L1 is the other wall: it looks up one line of 128 bytes per cycle, so a warp's load costs the lines
 * that it touches. Aligned sixteens make it 10 lines for the 576 bytes of 32 runs of Q4_0 and 10 for
 * their activations, which both rows share: 38 bytes of weights per cycle and SM. Q4_K: three loads of
 * 5 lines, 50 bytes a cycle; Q8_0 28; Q6_K, whose planes are read by several lanes, 14; Q3_K 10; Q2_K
 * 10; codebooks about 6, their points coming from shared memory. 70 % of bandwidth takes 9.4 (A100), 10.2
 * (H100), 4.7 (RTX 3090), 3.1 (5090), 2.2 (4090), 20 (B200): on the two largest cards Q2_K, Q3_K and
 * codebooks are bound by this, on B200 Q6_K too; everything else is bound by memory.
 *
 * Instructions: some 50 to 150 per run and lane, where 70 % of H100's bandwidth leaves 200 for Q4_0
 * and 330 for Q6_K.
 *
 * ## Order of sums
 * A run's products are integers; runs are added as floats by each lane, lanes by a butterfly, warps of
 * a split in order. All of it depends on the matrix's shape only, so a token's bits do not depend on
 * how many others there are. */
#ifndef TANDEM_GPU_RUN_DOT_CUH
#define TANDEM_GPU_RUN_DOT_CUH

#include "gpu/q8.cuh"
#include "gpu/row_dot.cuh"
#include "gpu/run.cuh"

#define RUN_ROWS 2         /* a lane works on */
#define RUN_SPLIT 4        /* most warps that share rows ... */
#define RUN_SPLIT_ROWS 4096 /* ... of matrices with fewer than this */
#define RUN_TABLE_BLOCKS 8 /* blocks per SM that fetch a codebook and then do their share of the rows */

/* sum + one run times one row of activations. */
template <int TYPE>
DEVICE float add_run(float sum, const struct run &w, const uint4 &low, const uint4 &high,
                     const struct q8_scale &x)
{
    int a = dot4_i8((int)w.q[0], (int)low.x, 0), b = dot4_i8((int)w.q[4], (int)high.x, 0);
    a = dot4_i8((int)w.q[1], (int)low.y, a);
    b = dot4_i8((int)w.q[5], (int)high.y, b);
    a = dot4_i8((int)w.q[2], (int)low.z, a);
    b = dot4_i8((int)w.q[6], (int)high.z, b);
    a = dot4_i8((int)w.q[3], (int)low.w, a);
    b = dot4_i8((int)w.q[7], (int)high.w, b);
    float product;
    if constexpr (run_traits<TYPE>::halves)
        product = multiply_add(w.scale[0], (float)a, w.scale[1] * (float)b);
    else
        product = w.scale[0] * (float)(a + b);
    if constexpr (run_traits<TYPE>::mins && run_traits<TYPE>::halves)
        product -= multiply_add(w.min[0], (float)x.sum[0], w.min[1] * (float)x.sum[1]);
    else if constexpr (run_traits<TYPE>::mins)
        product = multiply_add(-w.min[0], (float)(x.sum[0] + x.sum[1]), product);
    return multiply_add(product, x.d, sum);
}

/* sum[r][t] += row r times activation row `token` + t, for every stride-th run from `first` on. */
template <int TYPE, int MOST>
DEVICE void dot_runs(float sum[RUN_ROWS][MOST], const uint8_t *const rows[RUN_ROWS],
                     const struct q8_rows &x, int64_t token, int n_tokens, int first, int stride,
                     int n_runs, const uint32_t *table)
{
    for (int i = first; i < n_runs; i += stride) {
        struct run w[RUN_ROWS];
        UNROLL
        for (int r = 0; r < RUN_ROWS; r++)
            unpack_run<TYPE>(&w[r], rows[r], i, table);
        UNROLL
        for (int t = 0; t < MOST; t++) {
            if (t >= n_tokens)
                continue;
            uint4 low = *(const uint4 *)(x.q + q8_word(x, token + t, i, 0));
            uint4 high = *(const uint4 *)(x.q + q8_word(x, token + t, i, 1));
            struct q8_scale scale = x.scale[q8_place(x, token + t, i)];
            UNROLL
            for (int r = 0; r < RUN_ROWS; r++)
                sum[r][t] = add_run<TYPE>(sum[r][t], w[r], low, high, scale);
        }
    }
}

/* How warps and lanes share the rows of a matrix. */
struct run_shares {
    int lanes;   /* that share a row, of one warp */
    int split;   /* warps of a block that share a row */
    int n_tiles; /* pieces of the rows, a block each at a time */
    int n_runs;
};

/* For n_groups pairs of rows in blocks of n_warps. */
static inline struct run_shares run_shares_of(int64_t n_groups, int64_t cols, int n_warps)
{
    struct run_shares s;
    s.n_runs = (int)(cols / Q8_RUN);
    s.lanes = gpu_lanes(s.n_runs);
    s.split = 1;
    while (n_groups * RUN_ROWS < RUN_SPLIT_ROWS && s.split < RUN_SPLIT && 2 * s.split <= n_warps &&
           s.n_runs > 32 * s.split)
        s.split *= 2;
    s.n_tiles = (int)divide_up(n_groups, n_warps / s.split * (32 / s.lanes));
    return s;
}

template <int TYPE> static inline size_t run_shared_bytes(int n_warps, int most)
{
    return (size_t)(run_traits<TYPE>::table_words + n_warps * RUN_ROWS * most) * 4;
}

template <int TYPE> static inline unsigned run_blocks(const struct gpu_stream *s, int n_tiles)
{
    int most = run_traits<TYPE>::table_words ? RUN_TABLE_BLOCKS * s->n_sms : n_tiles;
    return (unsigned)(n_tiles < most ? n_tiles : most);
}

/* Which pair of rows this group of lanes has in a tile. */
DEVICE int run_group(const struct run_shares &s, int tile)
{
    int per_warp = 32 / s.lanes, warp = warp_id() / s.split;
    return (tile * ((int)blockDim.x / 32 / s.split) + warp) * per_warp + lane_id() / s.lanes;
}

/* This lane's sums over its group of lanes, then over the warps that share its rows: all threads of
 * the block call. The first lane of the first of the warps has the result. */
template <int MOST>
DEVICE void finish_sums(float sum[RUN_ROWS][MOST], const struct run_shares &s, float *parts,
                        int n_tokens)
{
    UNROLL
    for (int i = 0; i < RUN_ROWS * MOST; i++)
        if (i % MOST < n_tokens)
            sum[i / MOST][i % MOST] = group_sum(sum[i / MOST][i % MOST], s.lanes);
    if (s.split == 1)
        return;
    float *mine = parts + warp_id() * RUN_ROWS * MOST;
    for (int i = 0; i < RUN_ROWS * MOST; i++)
        if (lane_id() == 0)
            mine[i] = sum[i / MOST][i % MOST];
    block_sync();
    for (int w = 1; w < s.split && warp_id() % s.split == 0; w++)
        for (int i = 0; i < RUN_ROWS * MOST; i++)
            sum[i / MOST][i % MOST] += mine[w * RUN_ROWS * MOST + i];
    block_sync();
}

DEVICE bool run_writes(const struct run_shares &s)
{
    return lane_id() % s.lanes == 0 && warp_id() % s.split == 0;
}

/* ---- products of one matrix, of two with SwiGLU, of the experts that tokens picked ---- */

struct product {
    const uint8_t *weight, *second; /* second: of `up`, where weight is `gate`; NULL: plain */
    int64_t row_bytes;
    int n_rows;
    struct run_shares shares;
    struct q8_rows x;
    int n_tokens;
    float *dst;
    int64_t dst_stride;
    const float *bias; /* NULL: none */
    float limit;       /* of gate and up, 0: none */
    /* Experts: blockIdx.y is a pair of token and pick, the matrix that of its expert. */
    const int32_t *slots, *ids; /* ids NULL: one matrix */
    int64_t matrix_bytes;
    int top_k;
    const struct gpu_tables *tables;
};

/* Number of a pair's matrix, negative when it is not here. */
DEVICE int slot_of(const int32_t *slots, const int32_t *ids, int64_t pair)
{
    return slots ? slots[ids[pair]] : ids[pair];
}

/* Queue the product of n_pairs pairs (1 without ids); the second matrix has the type of the first. */
void run_product(struct gpu_stream *s, enum tensor_type type, struct product p, int n_pairs);

/* Is this weight multiplied by integers here? */
bool run_serves(const struct gpu_stream *s, enum tensor_type type);

#endif
