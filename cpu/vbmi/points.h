/* Codebook points without a load per point.
 *
 * A point of the IQ2 grids is eight coordinates out of three, so two bytes hold it: coordinates 0-3
 * and 4-7, two bits each. A point of the IQ3 grids is four coordinates out of eight: two bytes of
 * two coordinates, three bits each. Tables of bytes with 256 to 1024 entries are 4 to 16 vectors,
 * and one instruction (vpermb) reads 64 entries from one of them: 64 points cost 8 to 32
 * instructions where fetching them one by one costs 64 loads of an index, 64 of a point and the
 * work of bringing them together. A second vpermb turns the ranks of one coordinate of all 64
 * points into values.
 *
 * The result is sorted by coordinate, not by point: byte k is coordinate c of point k. So the
 * activations are laid out in the same order, once for all rows. This has another use: with the
 * points of a run in one dword, VNNI adds up a whole run and its scale is applied once. */
#ifndef TANDEM_CPU_VBMI_POINTS_H
#define TANDEM_CPU_VBMI_POINTS_H

#include "cpu/avx2/unpack.h"

/* Two bytes per point, as two tables, and the values of the coordinates by rank: entry i of
 * value[c] belongs to the bits of i that hold coordinate c. */
struct points {
    _Alignas(64) uint8_t low[1024], high[1024];
    uint8_t value[3][64];
};

extern struct points points_iq2xxs, points_iq2xs, points_iq2s, points_iq3xxs, points_iq3s;

/* The IQ1 grid, too large for this: 8 (coordinate + 1), eight bytes per point. Its coordinates are
 * -1, 0, 1, and all of them are moved by plus or minus an eighth. */
extern uint8_t points_iq1[2048][8];

/* Fill them; once is enough, from any thread. */
void points_make(void);

/* Bits 6 and 7 of 64 indices, and both: which quarter of 256 entries each of them means. */
struct quarters {
    __mmask64 b6, b7, b67;
};

ALWAYS_INLINE struct quarters quarters_of(__m512i index)
{
    struct quarters q = { .b6 = _mm512_test_epi8_mask(index, _mm512_set1_epi8(0x40)),
                          .b7 = _mm512_movepi8_mask(index) };
    q.b67 = _kand_mask64(q.b6, q.b7);
    return q;
}

/* 64 entries of a table of 256; of 512 with the ninth bits in b8; of 1024 with the tenth in b9. */
ALWAYS_INLINE __m512i look_up256(const uint8_t *table, __m512i index, struct quarters q)
{
    __m512i x = _mm512_permutexvar_epi8(index, _mm512_load_si512(table));
    x = _mm512_mask_permutexvar_epi8(x, q.b6, index, _mm512_load_si512(table + 64));
    x = _mm512_mask_permutexvar_epi8(x, q.b7, index, _mm512_load_si512(table + 128));
    return _mm512_mask_permutexvar_epi8(x, q.b67, index, _mm512_load_si512(table + 192));
}

ALWAYS_INLINE __m512i look_up512(const uint8_t *table, __m512i index, struct quarters q,
                                 __mmask64 b8)
{
    __m512i x = look_up256(table, index, q);
    const uint8_t *upper = table + 256;
    x = _mm512_mask_permutexvar_epi8(x, b8, index, _mm512_load_si512(upper));
    x = _mm512_mask_permutexvar_epi8(x, b8 & q.b6, index, _mm512_load_si512(upper + 64));
    x = _mm512_mask_permutexvar_epi8(x, b8 & q.b7, index, _mm512_load_si512(upper + 128));
    return _mm512_mask_permutexvar_epi8(x, b8 & q.b67, index, _mm512_load_si512(upper + 192));
}

ALWAYS_INLINE __m512i look_up1024(const uint8_t *table, __m512i index, struct quarters q,
                                  __mmask64 b8, __mmask64 b9)
{
    return _mm512_mask_blend_epi8(b9, look_up512(table, index, q, b8),
                                  look_up512(table + 512, index, q, b8));
}

/* Bytes of seven signs -> the eighth makes their number even: one matrix of bits per byte. */
ALWAYS_INLINE __m512i parity_of_low7(__m512i x)
{
    return _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64(0x010204081020407f), 0);
}

/* The same for signs in bits 1-7. */
ALWAYS_INLINE __m512i parity_of_high7(__m512i x)
{
    return _mm512_gf2p8affine_epi64_epi8(x, _mm512_set1_epi64(0x02040810204080fe), 0);
}

#endif
