/* SHA-256 (FIPS 180-4), for tests that compare tables and decoded values with published hashes. */
#ifndef TANDEM_TESTS_SHA256_H
#define TANDEM_TESTS_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static inline uint32_t sha_rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* First 32 bits behind the point of the square root (power 2) or cube root (3) of a prime: the
 * constants of the standard, found by bisection on integers. */
static inline uint32_t sha_root(uint32_t prime, int power)
{
    /* largest r, in units of 2^-32, whose power does not exceed the prime */
    uint64_t low = 0, high = (uint64_t)20 << 32;
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        unsigned __int128 square = (unsigned __int128)middle * middle; /* units of 2^-64 */
        int too_big;
        if (power == 2) {
            too_big = square > (unsigned __int128)prime << 64;
        } else {
            unsigned __int128 whole = (square >> 64) * middle; /* units of 2^-32 */
            unsigned __int128 rest = (square & UINT64_MAX) * (middle & UINT32_MAX) +
                                     (((square & UINT64_MAX) * (middle >> 32)) << 32);
            too_big = whole + (rest >> 64) >= (unsigned __int128)prime << 32;
        }
        if (too_big)
            high = middle;
        else
            low = middle;
    }
    return (uint32_t)low;
}

static inline void sha_block(uint32_t state[8], const uint32_t k[64], const uint8_t *block)
{
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (sha_rotate(a, 7) ^ sha_rotate(a, 18) ^ a >> 3) +
               (sha_rotate(b, 17) ^ sha_rotate(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (sha_rotate(e, 6) ^ sha_rotate(e, 11) ^ sha_rotate(e, 25)) +
                      ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        uint32_t t2 = (sha_rotate(a, 2) ^ sha_rotate(a, 13) ^ sha_rotate(a, 22)) +
                      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

/* Hex digits of the hash, 64 and a terminating 0. */
static inline void sha256_hex(const void *data, size_t n, char hex[65])
{
    static uint32_t k[64], start[8];
    if (!k[0]) {
        int count = 0;
        for (uint32_t p = 2; count < 64; p++) {
            int prime = 1;
            for (uint32_t q = 2; q * q <= p; q++)
                prime &= p % q != 0;
            if (!prime)
                continue;
            if (count < 8)
                start[count] = sha_root(p, 2);
            k[count++] = sha_root(p, 3);
        }
    }
    uint32_t state[8];
    memcpy(state, start, sizeof state);
    const uint8_t *bytes = data;
    size_t done = 0;
    for (; n - done >= 64; done += 64)
        sha_block(state, k, bytes + done);
    uint8_t tail[128] = { 0 };
    size_t rest = n - done, blocks = rest < 56 ? 1 : 2;
    if (rest)
        memcpy(tail, bytes + done, rest);
    tail[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        tail[64 * blocks - 1 - (size_t)i] = (uint8_t)((uint64_t)n * 8 >> 8 * i);
    for (size_t b = 0; b < blocks; b++)
        sha_block(state, k, tail + 64 * b);
    for (int i = 0; i < 8; i++)
        snprintf(hex + 8 * i, 9, "%08x", state[i]);
}

#endif
