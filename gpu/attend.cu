/* Attention kernels: a plain one in F32 and one on tensor cores.
 *
 * ## Grouped heads
 * Decode reads each key and value once per 8 query heads and does 4 operations per element: the bound
 * is the bytes of the cache over VRAM bandwidth (8 kv heads of 128, F16, 32k positions: 134 MB a layer,
 * 134 us at 1 TB/s), which the plain kernel reaches with enough splits to fill the card. Prefill has
 * the shape of latent attention, with tokens in place of heads.
 *
 * ## Latents (V3, F16, 32k positions, one layer)
 * 128 heads attend over the same 1152 bytes per position: 37.7 MB and 2 * (576 + 512) * 128 operations
 * for each, 9.1 Gflop, 240 a byte, which only tensor cores do.
 *
 *                      memory   tensor cores   bound   latents from L2, heads of a block
 *     H100 SXM          11 us       9 us       11 us     75 MB, 14 us      64
 *     RTX 5090          21 us      43 us       43 us    151 MB, 30 us      32
 *     RTX 4090          37 us      55 us       55 us    151 MB, 38 us      32
 *
 * A block takes as many query rows to the same keys as its shared memory holds: 64 heads of 576 (75 KB
 * of queries, 37 KB of latents at a time) where it may have 163 KB or more, 32 in 99 KB. All blocks of a
 * split run at the same time, so VRAM is read once and L2 twice or four times; tiles of 16 heads read it
 * eight times, 302 MB, which took longer than everything else. With 227 KB the next 32 latents arrive
 * while these are multiplied. On H100 2 tiles and 64 splits are 128 blocks of 512 threads for 132 SMs,
 * each 16 turns of 37 KB and 4.5 Mflop: some 1.3 us a turn at half of the peak, 21 us, and 3 us for
 * the merge, which reads 17 MB of partial sums from L2: twice the bound. */
#include <limits.h>

#include "gpu/attend.cuh"

#define BLOCK 32      /* positions at a time: one per lane where weights are computed */
#define ROWS 8        /* query rows of a tile, plain */
#define TILE_ROWS 16  /* on tensor cores: the height of an mma */
#define TILE_WARPS 4  /* per 16 rows: 8 positions of a block each, then a quarter of the values */
#define MOST_GROUPS 4 /* of 16 rows in a block, all on the same keys */
#define GROUP 4       /* tiles of values whose operands are fetched together */
#define PITCH 8       /* 16 bytes more per row keep rows in different banks */

/* ---- where the query rows of a tile belong ---- */

struct query {
    int token, head;
    bool exists;
};

/* Over selected rows the token is the third index of the block. */
DEVICE struct query query_of(const struct attend &a, int tile, int rows, int i)
{
    if (a.ids)
        return { (int)blockIdx.z, tile * rows + i, tile * rows + i < a.n_heads };
    int n_tiles = (a.n_tokens * a.group + rows - 1) / rows, kv_head = tile / n_tiles;
    int row = tile % n_tiles * rows + i;
    return { row / a.group, kv_head * a.group + row % a.group, row / a.group < a.n_tokens };
}

DEVICE int64_t place_of(const struct attend &a, struct query q)
{
    return ((int64_t)blockIdx.y * a.n_tokens + q.token) * a.n_heads + q.head;
}

/* Cache rows this block looks at: up to what its last query sees. */
DEVICE void range_of(const struct attend &a, int tile, int rows, int64_t *begin, int64_t *end)
{
    struct query last = query_of(a, tile, rows, rows - 1);
    int64_t seen = a.step->n_past + (last.exists ? last.token : a.n_tokens - 1) + 1 - a.first;
    if (a.ids)
        seen = a.n_ids[blockIdx.z];
    *begin = blockIdx.y * a.per_split;
    *end = *begin + a.per_split;
    *end = *end < a.n_positions ? *end : a.n_positions;
    *end = *end < seen ? *end : seen;
}

/* Of the positions in the range, the query may see those before this one. */
DEVICE int limit_of(const struct attend &a, struct query q)
{
    return a.ids ? INT_MAX : (int)(a.step->n_past + q.token + 1 - a.first);
}

/* Which row of the cache position p is. */
DEVICE int64_t row_of(const struct attend &a, int64_t p)
{
    return a.ids ? a.ids[(int64_t)blockIdx.z * a.most + p] : p;
}

/* What a row remembers: largest score so far, sum of weights, by how much sums shrink now, and the
 * position that ends what it sees. */
struct row_state {
    float max, sum, shrink;
    int limit;
};

/* Weights of one block of scores, one position per lane; every lane of a warp calls. */
DEVICE float weigh(struct row_state *state, float score, bool seen, bool round_to_f16)
{
    float max = fmaxf(state->max, warp_max(seen ? score : -INFINITY));
    float weight = seen ? expf(score - max) : 0;
    if (round_to_f16)
        weight = f16_to_float(float_to_f16(weight));
    float sum = warp_sum(weight), shrink = state->max == -INFINITY ? 0 : expf(state->max - max);
    warp_sync();
    if (lane_id() == 0)
        *state = { max, state->sum * shrink + sum, shrink, state->limit };
    return weight;
}

DEVICE struct row_state start_state(const struct attend &a, struct query q)
{
    if (!a.carry || !q.exists)
        return { -INFINITY, 0, 1, limit_of(a, q) };
    const float *state = a.states + 2 * place_of(a, q);
    return { state[0], state[1], 1, limit_of(a, q) };
}

/* ---- plain ---- */

DEVICE float element(const float *p) { return *p; }
DEVICE float element(const uint16_t *p) { return f16_to_float(*p); }

/* dots[i] += query row i (columns from `at` of shared q, `width` wide) times n elements of k. */
template <typename T>
DEVICE void add_products(float *dots, const float *q, int width, int at, const T *k, int n)
{
    for (int c = lane_id(); c < n; c += 32) {
        float x = element(k + c);
        UNROLL for (int i = 0; i < ROWS; i++) dots[i] += q[i * width + at + c] * x;
    }
}

/* score[i, p] for the n positions from `pos` on; a warp takes every n_warps-th. */
template <typename T>
DEVICE void score_plain(const struct attend &a, const float *q, float *score, int kv_head,
                        int64_t pos, int n)
{
    int width = a.key + a.tail;
    for (int p = warp_id(); p < n; p += (int)blockDim.x / 32) {
        float dots[ROWS] = { 0 };
        int64_t row = row_of(a, pos + p);
        add_products(dots, q, width, 0, (const T *)a.k + row * a.k_stride + kv_head * a.k_head,
                     a.key);
        if (a.tail > 0)
            add_products(dots, q, width, a.key, (const T *)a.k_tail + row * a.tail_stride, a.tail);
        for (int i = 0; i < ROWS; i++) {
            float dot = warp_sum(dots[i]);
            if (lane_id() == 0)
                score[i * BLOCK + p] = dot * a.scale;
        }
    }
}

/* sum[i, c] = sum[i, c] * shrink + weights times column c of the values. */
template <typename T>
DEVICE void sum_plain(const struct attend &a, const float *weight, const struct row_state *state,
                      float *sum, int kv_head, int64_t pos, int n)
{
    for (int c = (int)threadIdx.x; c < a.value; c += (int)blockDim.x) {
        const T *v = (const T *)a.v + kv_head * a.v_head + c;
        float s[ROWS];
        for (int i = 0; i < ROWS; i++)
            s[i] = sum[i * a.value + c] * state[i].shrink;
        for (int p = 0; p < n; p++) {
            float x = element(v + row_of(a, pos + p) * a.v_stride);
            UNROLL for (int i = 0; i < ROWS; i++) s[i] += weight[i * BLOCK + p] * x;
        }
        for (int i = 0; i < ROWS; i++)
            sum[i * a.value + c] = s[i];
    }
}

template <typename T> KERNEL void attend_plain(struct attend a)
{
    SHARED(float, q); /* [ROWS, width], then score [ROWS, BLOCK], sum [ROWS, value], states */
    int width = a.key + a.tail, tile = (int)blockIdx.x, n_warps = (int)blockDim.x / 32;
    float *score = q + ROWS * width, *sum = score + ROWS * BLOCK;
    struct row_state *state = (struct row_state *)(sum + ROWS * a.value);
    int kv_head = query_of(a, tile, ROWS, 0).head / a.group;

    for (int i = warp_id(); i < ROWS; i += n_warps) {
        struct query row = query_of(a, tile, ROWS, i);
        const float *from = a.q + row.token * a.q_stride + row.head * a.q_head;
        for (int c = lane_id(); c < width; c += 32)
            q[i * width + c] = row.exists ? from[c] : 0;
        bool carry = a.carry && row.exists;
        for (int c = lane_id(); c < a.value; c += 32)
            sum[i * a.value + c] = carry ? a.sums[place_of(a, row) * a.value + c] : 0;
        if (lane_id() == 0)
            state[i] = start_state(a, row);
    }
    block_sync();

    int64_t begin, end;
    range_of(a, tile, ROWS, &begin, &end);
    for (int64_t pos = begin; pos < end; pos += BLOCK) {
        int n = (int)(end - pos < BLOCK ? end - pos : BLOCK);
        score_plain<T>(a, q, score, kv_head, pos, n);
        block_sync();
        for (int i = warp_id(); i < ROWS; i += n_warps) {
            int p = lane_id();
            bool seen = p < n && pos + p < state[i].limit;
            score[i * BLOCK + p] = weigh(&state[i], seen ? score[i * BLOCK + p] : 0, seen, false);
        }
        block_sync();
        sum_plain<T>(a, score, state, sum, kv_head, pos, n);
        block_sync();
    }

    for (int i = warp_id(); i < ROWS; i += n_warps) {
        struct query row = query_of(a, tile, ROWS, i);
        if (!row.exists)
            continue;
        int64_t place = place_of(a, row);
        for (int c = lane_id(); c < a.value; c += 32)
            a.sums[place * a.value + c] = sum[i * a.value + c];
        if (lane_id() == 0) {
            a.states[2 * place] = state[i].max;
            a.states[2 * place + 1] = state[i].sum;
        }
    }
}

/* ---- tensor cores: F16 keys, values and weights, F32 sums ---- */

/* Sizes of the shared arrays, in elements. */
struct tile_shape {
    int rows, stages; /* query rows; blocks of keys and values that lie here at once */
    int q_pitch, v_pitch; /* keys have the pitch of queries */
    int k_size, stage; /* of the keys of a block, of keys and values */
    bool v_in_k;       /* values are the head of the keys: latents */
};

static struct tile_shape tile_shape_of(const struct attend &a, int tiles, int groups, int stages)
{
    int columns = tiles * 8 * TILE_WARPS, width = (a.key + a.tail + 31) / 32 * 32;
    struct tile_shape s = {};
    s.rows = TILE_ROWS * groups;
    s.stages = stages;
    s.v_in_k = a.v == a.k && a.v_stride == a.k_stride;
    if (s.v_in_k && width < columns)
        width = columns;
    s.q_pitch = width + PITCH;
    s.v_pitch = s.v_in_k ? s.q_pitch : columns + PITCH;
    s.k_size = BLOCK * s.q_pitch;
    s.stage = s.k_size + (s.v_in_k ? 0 : BLOCK * s.v_pitch);
    return s;
}

static size_t tile_shared(const struct tile_shape &s)
{
    size_t halves = (size_t)s.rows * (size_t)(s.q_pitch + BLOCK + PITCH) +
                    (size_t)s.stages * (size_t)s.stage;
    return halves * 2 + (size_t)s.rows * (BLOCK * sizeof(float) + sizeof(struct row_state));
}

/* Copy n elements of a row to shared memory, 16 bytes at a time where both sides are aligned. */
DEVICE void load_row(uint16_t *to, const uint16_t *from, int n)
{
    if (((uintptr_t)to | (uintptr_t)from | (uintptr_t)(2 * n)) % 16 == 0) {
        NO_UNROLL
        for (int c = 8 * lane_id(); c < n; c += 8 * 32)
            async_copy16(to + c, from + c);
    } else {
        NO_UNROLL
        for (int c = lane_id(); c < n; c += 32)
            to[c] = from[c];
    }
}

DEVICE void zero_row(uint16_t *to, int from, int n)
{
    NO_UNROLL
    for (int c = from + lane_id(); c < n; c += 32)
        to[c] = 0;
}

/* Begin to fetch keys and values of BLOCK positions from pos on; what does not exist is zero. */
DEVICE void load_block(const struct attend &a, const struct tile_shape &shape, uint16_t *k,
                       int kv_head, int pos, int end)
{
    uint16_t *v = k + shape.k_size;
    int n = end - pos < BLOCK ? end - pos : BLOCK;
    NO_UNROLL
    for (int p = warp_id(); p < BLOCK; p += (int)blockDim.x / 32) {
        uint16_t *to = k + p * shape.q_pitch;
        int64_t row = p < n ? row_of(a, pos + p) : 0;
        if (p < n) {
            load_row(to, (const uint16_t *)a.k + row * a.k_stride + kv_head * a.k_head, a.key);
            if (a.tail > 0)
                load_row(to + a.key, (const uint16_t *)a.k_tail + row * a.tail_stride, a.tail);
        }
        zero_row(to, p < n ? a.key + a.tail : 0, shape.q_pitch);
        if (shape.v_in_k)
            continue;
        if (p < n)
            load_row(v + p * shape.v_pitch,
                     (const uint16_t *)a.v + row * a.v_stride + kv_head * a.v_head, a.value);
        zero_row(v + p * shape.v_pitch, p < n ? a.value : 0, shape.v_pitch);
    }
    async_commit();
}

/* The 16 x 16 operand whose first element is `from`. */
DEVICE void load_a(uint32_t r[4], const uint16_t *from, int pitch)
{
    load_matrices(r, from + (lane_id() / 8 % 2 * 8 + lane_id() % 8) * pitch + lane_id() / 16 * 8);
}

/* Scores of this warp's 8 positions against the 16 query rows. */
DEVICE void score_tile(const struct attend &a, const uint16_t *q, const uint16_t *k, int pitch,
                       float *score)
{
    float d[4] = { 0 };
    const uint16_t *keys =
        k + (8 * (warp_id() % TILE_WARPS) + lane_id() % 8) * pitch + lane_id() / 8 * 8;
    NO_UNROLL
    for (int c = 0; c < a.key + a.tail; c += 32) {
        uint32_t left[4], right[4];
        load_matrices(right, keys + c);
        load_a(left, q + c, pitch);
        mma_f16(d, left, right);
        load_a(left, q + c + 16, pitch);
        mma_f16(d, left, right + 2);
    }
    int row = lane_id() / 4, p = 8 * (warp_id() % TILE_WARPS) + lane_id() % 4 * 2;
    score[row * BLOCK + p] = d[0] * a.scale;
    score[row * BLOCK + p + 1] = d[1] * a.scale;
    score[(row + 8) * BLOCK + p] = d[2] * a.scale;
    score[(row + 8) * BLOCK + p + 1] = d[3] * a.scale;
}

/* sum += weights times this warp's columns of the values, as far as there are any. Asking that once per
 * GROUP tiles also keeps the compiler from fetching the operands of all tiles at once, for which there
 * are no registers: with 16 tiles the sums take 64 of 128. */
template <int TILES>
DEVICE void sum_tile(float sum[TILES][4], int n_columns, const uint16_t *weight, const uint16_t *v,
                     int v_pitch, const struct row_state *state)
{
    float upper = state[lane_id() / 4].shrink, lower = state[lane_id() / 4 + 8].shrink;
    uint32_t near[4], far[4]; /* positions 0 .. 15 and 16 .. 31 */
    load_a(near, weight, BLOCK + PITCH);
    load_a(far, weight + 16, BLOCK + PITCH);
    int column = warp_id() % TILE_WARPS * TILES * 8;
    const uint16_t *values = v + lane_id() * v_pitch + column;
    UNROLL for (int i = 0; i < TILES; i++) {
        uint32_t right[4];
        if (i % GROUP == 0 && column + 8 * i >= n_columns)
            break;
        sum[i][0] *= upper;
        sum[i][1] *= upper;
        sum[i][2] *= lower;
        sum[i][3] *= lower;
        load_matrices_transposed(right, values + 8 * i);
        mma_f16(sum[i], near, right);
        mma_f16(sum[i], far, right + 2);
    }
}

/* This thread's elements of the sums, from or to memory. */
template <int TILES>
DEVICE void move_sums(const struct attend &a, int rows, float sum[TILES][4], bool out)
{
    int first = warp_id() / TILE_WARPS * TILE_ROWS;
    for (int half = 0; half < 2; half++) {
        struct query row = query_of(a, (int)blockIdx.x, rows, first + lane_id() / 4 + 8 * half);
        if (!row.exists)
            continue;
        float *place = a.sums + place_of(a, row) * a.value;
        for (int i = 0; i < TILES; i++) {
            for (int j = 0; j < 2; j++) {
                int c = (warp_id() % TILE_WARPS * TILES + i) * 8 + lane_id() % 4 * 2 + j;
                if (c >= a.value)
                    continue;
                if (out)
                    place[c] = sum[i][2 * half + j];
                else
                    sum[i][2 * half + j] = place[c];
            }
        }
    }
}

template <int TILES>
KERNEL_OF(32 * TILE_WARPS * MOST_GROUPS) void attend_tile(struct attend a, struct tile_shape shape)
{
    SHARED(uint16_t, q); /* [rows, q_pitch], then stages of k and v, weight, score, states */
    uint16_t *fetched = q + shape.rows * shape.q_pitch;
    uint16_t *weight = fetched + shape.stages * shape.stage;
    float *score = (float *)(weight + shape.rows * (BLOCK + PITCH));
    struct row_state *state = (struct row_state *)(score + shape.rows * BLOCK);
    int tile = (int)blockIdx.x, n_warps = (int)blockDim.x / 32;
    int kv_head = query_of(a, tile, shape.rows, 0).head / a.group;
    int first = warp_id() / TILE_WARPS * TILE_ROWS; /* of this warp's 16 rows */

    for (int i = warp_id(); i < shape.rows; i += n_warps) {
        struct query row = query_of(a, tile, shape.rows, i);
        const float *from = a.q + row.token * a.q_stride + row.head * a.q_head;
        for (int c = lane_id(); c < shape.q_pitch; c += 32)
            q[i * shape.q_pitch + c] =
                row.exists && c < a.key + a.tail ? float_to_f16(from[c]) : (uint16_t)0;
        if (lane_id() == 0)
            state[i] = start_state(a, row);
    }
    float sum[TILES][4];
    for (int i = 0; i < TILES; i++)
        sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0;
    if (a.carry)
        move_sums<TILES>(a, shape.rows, sum, false);

    int64_t from, behind;
    range_of(a, tile, shape.rows, &from, &behind);
    int end = (int)behind; /* 32 bits: this loop has no registers to spare */
    uint16_t *k = fetched, *next = shape.stages > 1 ? fetched + shape.stage : fetched;
    if (shape.stages > 1 && from < behind)
        load_block(a, shape, k, kv_head, (int)from, end);
    for (int pos = (int)from; pos < end; pos += BLOCK) {
        block_sync(); /* everybody is done with the block before */
        if (shape.stages == 1) {
            load_block(a, shape, k, kv_head, pos, end);
            async_wait<0>();
        } else if (pos + BLOCK < end) { /* the next one on its way, this one here */
            load_block(a, shape, next, kv_head, pos + BLOCK, end);
            async_wait<1>();
        } else {
            async_wait<0>();
        }
        block_sync();
        score_tile(a, q + first * shape.q_pitch, k, shape.q_pitch, score + first * BLOCK);
        block_sync();
        NO_UNROLL
        for (int i = warp_id(); i < shape.rows; i += n_warps) {
            int p = lane_id();
            bool seen = pos + p < end && pos + p < state[i].limit;
            weight[i * (BLOCK + PITCH) + p] =
                float_to_f16(weigh(&state[i], score[i * BLOCK + p], seen, true));
        }
        block_sync();
        sum_tile<TILES>(sum, a.value, weight + first * (BLOCK + PITCH),
                        shape.v_in_k ? k : k + shape.k_size, shape.v_pitch, state + first);
        uint16_t *done = k;
        k = next;
        next = done;
    }

    block_sync();
    move_sums<TILES>(a, shape.rows, sum, true);
    for (int i = (int)threadIdx.x; i < shape.rows; i += (int)blockDim.x) {
        struct query row = query_of(a, tile, shape.rows, i);
        if (row.exists) {
            a.states[2 * place_of(a, row)] = state[i].max;
            a.states[2 * place_of(a, row) + 1] = state[i].sum;
        }
    }
}

/* ---- putting the splits together: a thread per element ---- */

KERNEL void merge_splits(const float *sums, const float *states, int n_splits, int64_t n_rows,
                         int n_heads, int value, float *dst, int64_t dst_stride)
{
    int64_t row = blockIdx.x;
    int c = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    float max = -INFINITY, total = 0, sum = 0;
    if (c >= value)
        return;
    for (int i = 0; i < n_splits; i++)
        max = fmaxf(max, states[2 * (i * n_rows + row)]);
    for (int i = 0; i < n_splits; i++) {
        const float *state = states + 2 * (i * n_rows + row);
        float weight = expf(state[0] - max); /* 0 for a split without positions */
        total += weight * state[1];
        sum += weight * sums[(i * n_rows + row) * value + c];
    }
    dst[row / n_heads * dst_stride + row % n_heads * value + c] = sum / total;
}

/* ---- launching ---- */

/* Rows of sums that the scratch memory holds: a whole step, or a few tokens in many splits. */
static int64_t most_rows(const struct gpu_limits *l)
{
    return (int64_t)(l->max_tokens > 64 ? l->max_tokens : 64) * l->n_heads;
}

size_t attend_scratch(const struct gpu_limits *l)
{
    return (size_t)most_rows(l) * (size_t)(l->head_width + 2) * sizeof(float);
}

/* How the rows of a call go to tensor cores; rows 0: they do not. As many rows share the fetched keys
 * as there are and shared memory allows, then the next keys are fetched meanwhile. */
static struct tile_shape choose_tile(const struct gpu_stream *s, const struct attend *a,
                                     enum tensor_type type, int *tiles)
{
    int rows = a->ids ? a->n_heads : a->n_tokens * a->group;
    *tiles = a->value <= 64 ? 2 : a->value <= 128 ? 4 : a->value <= 256 ? 8 : 16;
    if (s->limits.act_f32 || type != TYPE_F16 || a->value > 512 || rows < TILE_ROWS)
        return {};
    for (int groups = MOST_GROUPS; groups > 0; groups /= 2) {
        bool worth = groups == 1 || rows > TILE_ROWS * groups / 2;
        for (int stages = 2; stages > 0 && worth; stages--) {
            struct tile_shape shape = tile_shape_of(*a, *tiles, groups, stages);
            if (tile_shared(shape) <= s->max_shared)
                return shape;
        }
    }
    return {};
}

/* Of one token over selected rows, else of all. */
static int n_tiles(const struct attend *a, int rows)
{
    if (a->ids)
        return (int)divide_up(a->n_heads, rows);
    return (int)divide_up((int64_t)a->n_tokens * a->group, rows) * (a->n_heads / a->group);
}

int attend_splits(const struct gpu_stream *s, struct attend *a, enum tensor_type type,
                  void *scratch, bool one_split)
{
    int64_t rows = (int64_t)a->n_tokens * a->n_heads, most = most_rows(&s->limits) / rows;
    int tiles, in_tile = choose_tile(s, a, type, &tiles).rows;
    int64_t depth = a->ids ? a->n_tokens : 1;
    /* two small blocks for each SM, or one that fills it */
    int64_t wanted = in_tile > TILE_ROWS ? s->n_sms / (n_tiles(a, in_tile) * depth)
                                         : divide_up(2 * s->n_sms, n_tiles(a, ROWS) * depth);
    int64_t useful = divide_up(a->n_positions, 2 * BLOCK);
    most = most < ATTEND_SPLITS ? most : ATTEND_SPLITS;
    int64_t n = wanted < useful ? wanted : useful;
    n = one_split || n < 1 || most < 1 ? 1 : n < most ? n : most;
    a->per_split = divide_up(divide_up(a->n_positions, n), BLOCK) * BLOCK;
    n = divide_up(a->n_positions, a->per_split);
    a->sums = (float *)scratch;
    a->states = a->sums + n * rows * a->value;
    assert(n == 1 || n * rows <= most_rows(&s->limits));
    return (int)n;
}

void attend_run(struct gpu_stream *s, const struct attend *a, enum tensor_type type, int n_splits)
{
    int tiles;
    unsigned depth = a->ids ? (unsigned)a->n_tokens : 1;
    struct tile_shape shape = choose_tile(s, a, type, &tiles);
    if (shape.rows > 0) {
        dim3 grid((unsigned)n_tiles(a, shape.rows), (unsigned)n_splits, depth);
        size_t shared = tile_shared(shape);
        int threads = shape.rows / TILE_ROWS * TILE_WARPS * 32;
        if (tiles == 2)
            LAUNCH(s, attend_tile<2>, grid, threads, shared, *a, shape);
        else if (tiles == 4)
            LAUNCH(s, attend_tile<4>, grid, threads, shared, *a, shape);
        else if (tiles == 8)
            LAUNCH(s, attend_tile<8>, grid, threads, shared, *a, shape);
        else
            LAUNCH(s, attend_tile<16>, grid, threads, shared, *a, shape);
        return;
    }
    dim3 grid((unsigned)n_tiles(a, ROWS), (unsigned)n_splits, depth);
    int threads = gpu_threads(s, 256);
    size_t shared = (size_t)ROWS * (size_t)(a->key + a->tail + BLOCK + a->value) * sizeof(float) +
                    ROWS * sizeof(struct row_state);
    if (type == TYPE_F32)
        LAUNCH(s, attend_plain<float>, grid, threads, shared, *a);
    else
        LAUNCH(s, attend_plain<uint16_t>, grid, threads, shared, *a);
}

void attend_merge(struct gpu_stream *s, const struct attend *a, int n_splits, float *dst,
                  int64_t dst_stride)
{
    int64_t rows = (int64_t)a->n_tokens * a->n_heads;
    int threads = gpu_threads(s, a->value < 128 ? a->value : 128);
    dim3 grid((unsigned)rows, (unsigned)divide_up(a->value, threads));
    LAUNCH(s, merge_splits, grid, threads, 0, a->sums, a->states, n_splits, rows, a->n_heads,
           a->value, dst, dst_stride);
}
