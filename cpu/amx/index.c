/* Scores of an indexer's keys, AMX: keys to the left, as they lie, sixteen in a tile; heads to the
 * right, four columns of a head in a word. 64 heads of 128 against 32 keys are sixteen tiles of
 * products, and as many vectors of sixteen heads as there are keys and groups of heads to add up.
 *
 * Keys that do not fill two tiles, and widths that do not fill a line, are left to AVX-512, whose bits
 * are the same: products are whole numbers, and the sums over heads have one order. */
#include "cpu/amx/table.h"
#include "cpu/amx/tiles.h"
#include "cpu/avx512/index.h"

#define TILE 16
#define KEYS (2 * TILE)
#define DEPTH 64 /* bytes along a tile's line */

/* products [KEYS, INDEX_GROUP] of 32 keys and the heads from h0 on. */
ALWAYS_INLINE void multiply_group(const struct index_query *q, int h0, const int8_t *keys,
                                  int32_t *products)
{
    const size_t heads_bytes = 4 * (size_t)q->n_heads, key_bytes = (size_t)q->dim;
    const int8_t *heads = q->q + 4 * h0;
    _tile_zero(C00);
    _tile_zero(C01);
    _tile_zero(C10);
    _tile_zero(C11);
    for (int c = 0; c < q->dim; c += DEPTH, heads += DEPTH / 4 * heads_bytes) {
        _tile_loadd(A0, keys + c, key_bytes);
        _tile_loadd(B0, heads, heads_bytes);
        _tile_dpbssd(C00, A0, B0);
        _tile_loadd(A1, keys + TILE * key_bytes + (size_t)c, key_bytes);
        _tile_dpbssd(C10, A1, B0);
        _tile_loadd(B1, heads + 4 * TILE, heads_bytes);
        _tile_dpbssd(C01, A0, B1);
        _tile_dpbssd(C11, A1, B1);
    }
    _tile_stored(C00, products, 4 * INDEX_GROUP);
    _tile_stored(C01, products + TILE, 4 * INDEX_GROUP);
    _tile_stored(C10, products + TILE * INDEX_GROUP, 4 * INDEX_GROUP);
    _tile_stored(C11, products + TILE * INDEX_GROUP + TILE, 4 * INDEX_GROUP);
}

/* Add to the sums of each key what a group of heads gives; they begin with the first. */
ALWAYS_INLINE void add_group(const int32_t *products, const float *weights, float *sums,
                             const bool begins)
{
    __m512 weights0 = _mm512_loadu_ps(weights), weights1 = _mm512_loadu_ps(weights + TILE);
    for (int k = 0; k < KEYS; k++, products += INDEX_GROUP, sums += TILE) {
        __m512 sum = begins ? _mm512_setzero_ps() : _mm512_load_ps(sums);
        sum = index_weigh(sum, _mm512_load_si512(products), weights0);
        sum = index_weigh(sum, _mm512_load_si512(products + TILE), weights1);
        _mm512_store_ps(sums, sum);
    }
}

static void store_scores(const float *sums, const float *scales, float *scores)
{
    for (int i = 0; i < KEYS; i += TILE) {
        __m512 rows[INDEX_LANES];
        for (int k = 0; k < TILE; k++)
            rows[k] = _mm512_load_ps(sums + (i + k) * TILE);
        _mm512_storeu_ps(scores + i, _mm512_mul_ps(_mm512_loadu_ps(scales + i), index_fold(rows)));
    }
}

static void index_scores_amx(const struct index_query *q, const int8_t *keys, const float *scales,
                             int64_t n, float *scores)
{
    _Alignas(64) int32_t products[2][KEYS * INDEX_GROUP];
    _Alignas(64) float sums[KEYS * TILE];
    int64_t whole = q->dim % DEPTH == 0 ? n / KEYS * KEYS : 0;
    configure_tiles(DEPTH);
    for (int64_t i = 0; i < whole; i += KEYS) {
        const int8_t *at = keys + i * q->dim;
        multiply_group(q, 0, at, products[0]);
        for (int h = 0; h < q->n_heads; h += INDEX_GROUP) { /* the next group's tiles beside the sums */
            int turn = h / INDEX_GROUP & 1;
            if (h + INDEX_GROUP < q->n_heads)
                multiply_group(q, h + INDEX_GROUP, at, products[!turn]);
            if (h == 0)
                add_group(products[turn], q->weights, sums, true);
            else
                add_group(products[turn], q->weights + h, sums, false);
        }
        store_scores(sums, scales + i, scores + i);
    }
    _tile_release();
    if (whole < n)
        index_scores_avx512(q, keys + whole * q->dim, scales + whole, n - whole, scores + whole);
}

void use_index_amx(struct kernels *k)
{
    k->index_scores = index_scores_amx;
}
