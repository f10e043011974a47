#include "src/text/maps.h"

#include <time.h>

uint64_t hash_seed(void)
{
    static char here; /* address randomization gives the bits that the clock does not */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t h = hash_mix((uint64_t)t.tv_nsec ^ (uint64_t)t.tv_sec << 32, 0x9E3779B97F4A7C15u);
    return hash_mix(h ^ (uint64_t)(uintptr_t)&here, 0xD6E8FEB86659FD93u) | 1;
}

bool pair_map_init(struct pair_map *m, size_t n, struct arena *arena, struct error *err)
{
    size_t slots = hash_slots(n);
    m->slots = arena_alloc(arena, slots, sizeof *m->slots, err);
    if (!m->slots)
        return false;
    for (size_t i = 0; i < slots; i++)
        m->slots[i].first = PAIR_NONE;
    m->mask = slots - 1;
    m->seed = hash_seed();
    return true;
}
