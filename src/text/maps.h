/* Hash tables of the tokenizers: pairs of 32-bit numbers to pairs of 32-bit numbers, and the string
 * hash used beside them. Open addressing, built once, then read by any number of threads.
 *
 * Keys come from files, so the hash is seeded per process: nobody can prepare a vocabulary whose
 * tokens all fall into one slot. Results never depend on the seed. */
#ifndef TANDEM_TEXT_MAPS_H
#define TANDEM_TEXT_MAPS_H

#include "src/base/arena.h"
#include "src/base/error.h"
#include "src/base/util.h"

uint64_t hash_seed(void);

static inline uint64_t hash_mix(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t hash_bytes(struct str s, uint64_t seed)
{
    uint64_t h = seed ^ s.len * 0x9E3779B97F4A7C15u, word;
    for (; s.len >= 8; s.data += 8, s.len -= 8) {
        memcpy(&word, s.data, 8);
        h = hash_mix(h ^ word, 0xD6E8FEB86659FD93u);
    }
    word = 0;
    for (size_t i = 0; i < s.len; i++)
        word = word << 8 | (unsigned char)s.data[i];
    return hash_mix(h ^ word, 0xA0761D6478BD642Fu);
}

/* Slots for `n` keys in a table that stays at most two thirds full: a power of two. */
static inline size_t hash_slots(size_t n)
{
    size_t slots = 16;
    while (slots / 3 * 2 < n)
        slots *= 2;
    return slots;
}

struct pair_slot {
    uint32_t a, b;        /* the key */
    uint32_t first, second; /* the value; first == PAIR_NONE marks an empty slot */
};

#define PAIR_NONE UINT32_MAX

struct pair_map {
    struct pair_slot *slots; /* arena of pair_map_init */
    size_t mask;
    uint64_t seed;
};

/* Room for `n` keys. */
bool pair_map_init(struct pair_map *m, size_t n, struct arena *arena, struct error *err);

/* The slot of the key (a, b), or the empty slot where it belongs. */
static inline struct pair_slot *pair_map_slot(const struct pair_map *m, uint32_t a, uint32_t b)
{
    size_t i = hash_mix((uint64_t)a << 32 | b, m->seed) & m->mask;
    while (m->slots[i].first != PAIR_NONE && (m->slots[i].a != a || m->slots[i].b != b))
        i = (i + 1) & m->mask;
    return &m->slots[i];
}

#endif
