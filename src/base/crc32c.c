/* Eight bytes at a time, by eight tables. */
#include "src/base/crc32c.h"

#include <string.h>

/* Filled once per call of the first kind: 8 tables of 256 for the polynomial 0x1EDC6F41,
 * reflected. */
struct crc_tables {
    uint32_t of[8][256];
};

static const struct crc_tables *crc_tables(void)
{
    static struct crc_tables tables;
    static int state; /* 0 empty, 1 full; filling twice at once writes the same values */
    if (__atomic_load_n(&state, __ATOMIC_ACQUIRE))
        return &tables;
    struct crc_tables t;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;
        t.of[0][i] = c;
    }
    for (int k = 1; k < 8; k++)
        for (uint32_t i = 0; i < 256; i++)
            t.of[k][i] = t.of[k - 1][i] >> 8 ^ t.of[0][t.of[k - 1][i] & 255];
    tables = t;
    __atomic_store_n(&state, 1, __ATOMIC_RELEASE);
    return &tables;
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t n)
{
    const struct crc_tables *t = crc_tables();
    const uint8_t *p = bytes;
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8); /* little-endian machines only, as everything here */
        word ^= crc;
        crc = 0;
        for (int k = 0; k < 8; k++)
            crc ^= t->of[7 - k][word >> 8 * k & 255];
    }
    for (; n; n--, p++)
        crc = crc >> 8 ^ t->of[0][(crc ^ *p) & 255];
    return ~crc;
}
