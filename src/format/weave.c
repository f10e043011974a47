#include "src/format/weave.h"

#include <assert.h>
#include <string.h>

#include "src/base/util.h"
#include "src/format/quant.h"

/* `bytes` bytes of a block from byte `at` on, in units. */
struct field {
    uint8_t at, bytes, unit;
    bool is_qh; /* bits to be rearranged as well */
};

#define MAX_FIELDS 6

/* In the order in which a woven block holds them; see quant_blocks.h for what they are. */
static const struct field fields[N_TENSOR_TYPES][MAX_FIELDS] = {
    [TYPE_Q4_0] = { { 0, 2, 2 }, { 2, 16, 4 } },
    [TYPE_Q4_1] = { { 0, 4, 2 }, { 4, 16, 4 } },
    [TYPE_Q5_0] = { { 0, 2, 2 }, { 2, 4, 4, .is_qh = true }, { 6, 16, 4 } },
    [TYPE_Q5_1] = { { 0, 4, 2 }, { 4, 4, 4, .is_qh = true }, { 8, 16, 4 } },
    [TYPE_Q8_0] = { { 0, 2, 2 }, { 2, 32, 4 } },
    [TYPE_IQ4_NL] = { { 0, 2, 2 }, { 2, 16, 4 } },
    [TYPE_MXFP4] = { { 0, 1, 1 }, { 1, 16, 4 } },
    [TYPE_Q2_K] = { { 80, 4, 2 }, { 0, 16, 1 }, { 16, 64, 4 } },
    [TYPE_Q3_K] = { { 108, 2, 2 }, { 96, 12, 1 }, { 0, 32, 4 }, { 32, 64, 4 } },
    [TYPE_Q4_K] = { { 0, 4, 2 }, { 4, 12, 1 }, { 16, 128, 4 } },
    [TYPE_Q5_K] = { { 0, 4, 2 }, { 4, 12, 1 }, { 16, 32, 4 }, { 48, 128, 4 } },
    /* d, scales, then upper bits and nibbles of each half */
    [TYPE_Q6_K] = { { 208, 2, 2 }, { 192, 16, 1 }, { 128, 32, 4 }, { 0, 64, 4 }, { 160, 32, 4 },
                    { 64, 64, 4 } },
    [TYPE_IQ4_XS] = { { 0, 4, 2 }, { 4, 4, 1 }, { 8, 128, 4 } },
};

bool weave_known(enum tensor_type type)
{
    return fields[type][0].bytes != 0;
}

/* Bit 4 u + k -> bit u of byte k, u < 8, k < 4: every fourth bit, moved together in three steps. */
static uint32_t spread_qh(uint32_t bits)
{
    uint32_t out = 0;
    for (int k = 0; k < 4; k++) {
        uint32_t x = bits >> k & 0x11111111;
        x = (x | x >> 3) & 0x03030303;
        x = (x | x >> 6) & 0x000f000f;
        out |= ((x | x >> 12) & 0xff) << 8 * k;
    }
    return out;
}

static uint32_t gather_qh(uint32_t bits)
{
    uint32_t out = 0;
    for (int i = 0; i < 32; i++)
        out |= (bits >> (8 * (i % 4) + i / 4) & 1) << i;
    return out;
}

/* Copies of constant size: the compiler makes moves of them. */
static inline void copy_unit(uint8_t *to, const uint8_t *from, int unit)
{
    if (unit == 4)
        memcpy(to, from, 4);
    else if (unit == 2)
        memcpy(to, from, 2);
    else
        *to = *from;
}

static void change_qh(uint8_t *words, int n, uint32_t (*change)(uint32_t))
{
    for (int i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, words + 4 * i, sizeof x);
        x = change(x);
        memcpy(words + 4 * i, &x, sizeof x);
    }
}

void weave_rows(enum tensor_type type, int64_t cols, const void *rows, void *out)
{
    assert(weave_known(type));
    const size_t row_bytes = quant_row_bytes(type, cols);
    const size_t block_bytes = quant_traits(type)->block_bytes;
    uint8_t *to = out;
    for (size_t b = 0; b < row_bytes; b += block_bytes) {
        for (const struct field *f = fields[type]; f < fields[type] + MAX_FIELDS && f->bytes; f++) {
            const uint8_t *from = (const uint8_t *)rows + b + f->at;
            for (int at = 0; at < f->bytes; at += f->unit)
                for (size_t r = 0; r < WEAVE_ROWS; r++, to += f->unit)
                    copy_unit(to, from + r * row_bytes + at, f->unit);
            if (f->is_qh)
                change_qh(to - 4 * WEAVE_ROWS, WEAVE_ROWS, spread_qh);
        }
    }
}

void unweave_rows(enum tensor_type type, int64_t cols, const void *woven, void *out)
{
    assert(weave_known(type));
    const size_t row_bytes = quant_row_bytes(type, cols);
    const size_t block_bytes = quant_traits(type)->block_bytes;
    const uint8_t *from = woven;
    for (size_t b = 0; b < row_bytes; b += block_bytes) {
        for (const struct field *f = fields[type]; f < fields[type] + MAX_FIELDS && f->bytes; f++) {
            uint8_t *to = (uint8_t *)out + b + f->at;
            for (int at = 0; at < f->bytes; at += f->unit)
                for (size_t r = 0; r < WEAVE_ROWS; r++, from += f->unit)
                    copy_unit(to + r * row_bytes + at, from, f->unit);
            for (size_t r = 0; f->is_qh && r < WEAVE_ROWS; r++)
                change_qh(to + r * row_bytes, 1, gather_qh);
        }
    }
}
