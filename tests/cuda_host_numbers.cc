/* What the lanes of a warp compute together: votes and sums, conversions of small floats, products
 * of tensor cores. The last lane to arrive does it for all (cuda_host_meet). */
#include <math.h>

#include "tests/cuda_host_block.h"

/* ---- numbers of the warp verbs ---- */

static float slot_float(cuda_host_slots slots, int lane, size_t at)
{
    float x;
    memcpy(&x, slots[lane] + at, sizeof x);
    return x;
}

uint32_t warp_ballot(bool yes)
{
    unsigned char (*slots)[CUDA_HOST_SLOT] = cuda_host_meet("warp_ballot", &yes, 1, NULL);
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++)
        bits |= (uint32_t)(slots[i][0] & 1) << i;
    return bits;
}

/* The butterfly of verbs.cuh, done by the last lane; every slot gets its lane's result. */
template <typename F> static void butterfly(cuda_host_slots slots, F combine)
{
    float x[32], y[32];
    for (int i = 0; i < 32; i++)
        x[i] = slot_float(slots, i, 0);
    for (int mask = 16; mask > 0; mask >>= 1) {
        for (int i = 0; i < 32; i++)
            y[i] = combine(x[i], x[i ^ mask]);
        memcpy(x, y, sizeof x);
    }
    for (int i = 0; i < 32; i++)
        memcpy(slots[i], &x[i], sizeof x[i]);
}

float warp_sum(float x)
{
    auto slots = cuda_host_meet("warp_sum", &x, sizeof x, [](cuda_host_slots s) {
        butterfly(s, [](float a, float b) { return a + b; });
    });
    return slot_float(slots, lane_id(), 0);
}

float warp_max(float x)
{
    auto slots = cuda_host_meet("warp_max", &x, sizeof x, [](cuda_host_slots s) {
        butterfly(s, [](float a, float b) { return fmaxf(a, b); });
    });
    return slot_float(slots, lane_id(), 0);
}

/* ---- small floats ---- */

static float decode_f16(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    float x = exponent == 31 ? (mantissa ? NAN : INFINITY)
              : exponent     ? ldexpf((float)(mantissa + 1024), exponent - 25)
                             : ldexpf((float)mantissa, -24);
    return h & 0x8000 ? -x : x;
}

static const struct f16_table {
    float value[65536];
    f16_table()
    {
        for (int i = 0; i < 65536; i++)
            value[i] = decode_f16((uint16_t)i);
    }
} f16_values;

float f16_to_float(uint16_t h)
{
    return f16_values.value[h];
}

uint16_t float_to_f16(float x)
{
    uint32_t b = float_to_bits(x), sign = b >> 16 & 0x8000;
    float a = fabsf(x);
    if (a != a)
        return (uint16_t)(sign | 0x7e00);
    if (a >= 65520)
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x1p-14f) /* subnormal: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(a * 0x1p24f));
    b &= 0x7fffffff;
    b += 0xfff + (b >> 13 & 1);
    return (uint16_t)(sign | (b - 0x38000000) >> 13);
}

uint16_t float_to_bf16(float x)
{
    uint32_t b = float_to_bits(x);
    if (x != x)
        return (uint16_t)(b >> 16 | 0x40);
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

/* ---- tensor cores ---- */

/* Slot: a [4] at 0, b [2] at 16, d [4] at 24; d becomes d + A B. */
template <typename F> static void multiply(cuda_host_slots slots, F decode)
{
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        uint16_t r[12];
        memcpy(r, slots[lane], sizeof r);
        int group = lane / 4, pair = 2 * (lane % 4);
        for (int i = 0; i < 2; i++) {
            a[group][pair + i] = decode(r[i]);
            a[group + 8][pair + i] = decode(r[2 + i]);
            a[group][pair + 8 + i] = decode(r[4 + i]);
            a[group + 8][pair + 8 + i] = decode(r[6 + i]);
            b[pair + i][group] = decode(r[8 + i]);
            b[pair + 8 + i][group] = decode(r[10 + i]);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + (i >= 2 ? 8 : 0), col = 2 * (lane % 4) + (i & 1);
            float sum = slot_float(slots, lane, 24 + 4 * (size_t)i);
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][col];
            memcpy(slots[lane] + 24 + 4 * i, &sum, sizeof sum);
        }
    }
}

static void mma(const char *what, float d[4], const uint32_t a[4], const uint32_t b[2],
                cuda_host_act *act)
{
    unsigned char mine[40];
    memcpy(mine, a, 16);
    memcpy(mine + 16, b, 8);
    memcpy(mine + 24, d, 16);
    memcpy(d, cuda_host_meet(what, mine, sizeof mine, act)[lane_id()] + 24, 16);
}

void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma("mma_f16", d, a, b, [](cuda_host_slots s) { multiply(s, f16_to_float); });
}

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma("mma_bf16", d, a, b, [](cuda_host_slots s) { multiply(s, bf16_to_float); });
}

/* Slots hold row addresses; each gets its lane's four registers. */
static void gather(cuda_host_slots slots, bool transposed)
{
    uint16_t m[4][8][8];
    for (int lane = 0; lane < 32; lane++) {
        const void *row;
        memcpy(&row, slots[lane], sizeof row);
        memcpy(m[lane / 8][lane % 8], row, 16);
    }
    for (int lane = 0; lane < 32; lane++) {
        uint16_t r[8];
        int group = lane / 4, pair = 2 * (lane % 4);
        for (int i = 0; i < 8; i++)
            r[i] = transposed ? m[i / 2][pair + i % 2][group] : m[i / 2][group][pair + i % 2];
        memcpy(slots[lane], r, sizeof r);
    }
}

static void load_four(const char *what, uint32_t r[4], const void *row, cuda_host_act *act)
{
    if ((uintptr_t)row % 16 || !cuda_host_is_shared(row, 16))
        cuda_host_fault("a row of a matrix that is unaligned or not in shared memory");
    memcpy(r, cuda_host_meet(what, &row, sizeof row, act)[lane_id()], 16);
}

void load_matrices(uint32_t r[4], const void *row)
{
    load_four("load_matrices", r, row, [](cuda_host_slots s) { gather(s, false); });
}

void load_matrices_transposed(uint32_t r[4], const void *row)
{
    load_four("load_matrices_transposed", r, row, [](cuda_host_slots s) { gather(s, true); });
}
