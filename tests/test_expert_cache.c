/* The policy of the expert cache on traces of picks: what is admitted, who makes room, hit rates for
 * several kinds of locality, and that a scan does no harm. */
#include "src/engine/expert_cache.h"
#include "tests/check.h"
#include "tests/pick_trace.h"

#include <stdio.h>

#define N_EXPERTS 256
#define TOP_K 8

static struct expert_cache *cache;
static struct expert_move moves[16];
static bool changed;

static void open_cache(int n_layers, int n_routed, int n_slots)
{
    struct error err = { 0 };
    CHECK_MSG(expert_cache_open(&cache, n_layers, n_routed, n_slots, &err), "%s", err.text);
}

static void use(int layer, int expert)
{
    int32_t id = expert;
    expert_cache_use(cache, layer, &id, 1, true);
}

static int next(int most)
{
    return expert_cache_next(cache, moves, most, &changed);
}

static int slot(int layer, int n_routed, int expert)
{
    return expert_cache_table(cache)[layer * n_routed + expert];
}

/* The table is a set of pairs: no slot holds two experts. */
static void check_table(int n_layers, int n_routed, int n_slots)
{
    for (int l = 0; l < n_layers; l++) {
        int seen[PICK_MAX_EXPERTS] = { 0 };
        for (int e = 0; e < n_routed; e++) {
            int s = slot(l, n_routed, e);
            CHECK(s >= -1 && s < n_slots && (s < 0 || seen[s]++ == 0));
        }
    }
}

static void test_admission(void)
{
    check_case("the second use within the window is admitted, and there one step later");
    open_cache(2, 8, 2);
    use(1, 5);
    CHECK_INT(next(4), 0);
    CHECK(!changed);
    use(1, 5);
    CHECK_INT(next(4), 1);
    CHECK(moves[0].layer == 1 && moves[0].expert == 5 && moves[0].slot == 0 && !changed);
    CHECK_INT(slot(1, 8, 5), -1); /* on its way */
    use(1, 5);
    CHECK_INT(next(4), 0);
    CHECK(changed);
    CHECK_INT(slot(1, 8, 5), 0);
    CHECK_INT(slot(0, 8, 5), -1);

    check_case("a first use is not, nor a second one behind the window");
    use(1, 6);
    for (int i = 0; i <= EXPERT_CACHE_WINDOW; i++)
        CHECK_INT(next(4), 0);
    use(1, 6);
    CHECK_INT(next(4), 0);
    use(1, 6);
    CHECK_INT(next(4), 1);
    CHECK_INT(moves[0].slot, 1);
    expert_cache_close(cache);
}

static void test_eviction(void)
{
    check_case("the one that waits longest makes room, at once, for one that came back sooner");
    open_cache(1, 8, 2);
    for (int i = 0; i < 2; i++) {
        use(0, 0);
        use(0, 1);
        next(4);
    }
    next(4);
    CHECK(slot(0, 8, 0) == 0 && slot(0, 8, 1) == 1);
    use(0, 2);
    use(0, 1);
    next(4);
    use(0, 2);
    CHECK_INT(next(4), 1); /* after 1 step; expert 0 has waited 3 */
    CHECK(moves[0].expert == 2 && moves[0].slot == 0);
    CHECK(changed && slot(0, 8, 0) == -1 && slot(0, 8, 2) == -1 && slot(0, 8, 1) == 1);
    next(4);
    CHECK_INT(slot(0, 8, 2), 0);

    check_case("nobody makes room for one that was away longer");
    use(0, 3);
    next(4);
    for (int i = 0; i < 3; i++) {
        use(0, 1);
        use(0, 2);
        next(4);
    }
    use(0, 1);
    use(0, 2);
    use(0, 3);
    CHECK_INT(next(4), 0);
    expert_cache_close(cache);
}

static void test_limits(void)
{
    check_case("moves are limited per step and per layer, and layers take turns");
    open_cache(3, 8, 8);
    for (int round = 0; round < 2; round++) {
        for (int l = 0; l < 3; l++)
            for (int e = 0; e < 8; e++)
                use(l, e);
        if (round == 0)
            next(16);
    }
    CHECK_INT(next(16), 3 * EXPERT_CACHE_PER_LAYER);
    int first[3];
    for (int i = 0; i < 3; i++) {
        for (int l = 0; l < 3; l++)
            for (int e = 4; e < 8; e++)
                use(l, e);
        CHECK_INT(next(1), 1);
        first[i] = moves[0].layer;
    }
    CHECK(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
    expert_cache_close(cache);

    check_case("a step of many tokens is counted and teaches nothing");
    open_cache(1, 8, 4);
    for (int i = 0; i < 3; i++) {
        int32_t ids[] = { 1, 2, 1, 2 };
        expert_cache_use(cache, 0, ids, 4, false);
        CHECK_INT(next(4), 0);
    }
    struct expert_cache_counts counts;
    expert_cache_count(cache, &counts);
    CHECK(counts.n_picks == 12 && counts.n_hits == 0 && counts.n_moves == 0);
    expert_cache_close(cache);
}

/* ---- traces ---- */

struct outcome {
    double hit_rate, moves_per_step;
    double lru; /* hits of a cache that takes whoever is used, at once */
};

/* Which of the picks are among the n_slots that were used last, when `order` was the order. */
static int lru_hits(const int32_t *order, const int32_t *ids, int n_slots)
{
    int n = 0;
    for (int k = 0; k < TOP_K; k++)
        for (int i = 0; i < n_slots; i++)
            n += order[i] == ids[k];
    return n;
}

/* n steps of a trace in one layer, and what they added to the counts. */
static struct outcome follow(struct pick_trace *t, int n, int n_slots)
{
    struct expert_cache_counts before, after;
    int most = EXPERT_CACHE_PER_LAYER, lru = 0;
    expert_cache_count(cache, &before);
    for (int i = 0; i < n; i++) {
        int32_t ids[TOP_K], order[PICK_MAX_EXPERTS];
        memcpy(order, t->order, sizeof order);
        pick_trace_next(t, ids);
        lru += lru_hits(order, ids, n_slots);
        expert_cache_use(cache, 0, ids, TOP_K, true);
        CHECK(next(most) <= most);
    }
    expert_cache_count(cache, &after);
    return (struct outcome){
        (double)(after.n_hits - before.n_hits) / (double)(after.n_picks - before.n_picks),
        (double)(after.n_moves - before.n_moves) / n, (double)lru / (n * TOP_K),
    };
}

static struct outcome follow_new(enum pick_kind kind, int n_slots)
{
    struct pick_trace t;
    pick_trace_open(&t, kind, N_EXPERTS, TOP_K);
    open_cache(1, N_EXPERTS, n_slots);
    follow(&t, 1500, n_slots); /* warm */
    struct outcome o = follow(&t, 3000, n_slots);
    check_table(1, N_EXPERTS, n_slots);
    expert_cache_close(cache);
    return o;
}

/* Every expert in turn, TOP_K at a time. */
static void scan(int rounds)
{
    for (int i = 0; i < rounds * N_EXPERTS / TOP_K; i++) {
        for (int k = 0; k < TOP_K; k++)
            use(0, (i * TOP_K + k) % N_EXPERTS);
        next(2);
    }
}

static void test_hit_rates(void)
{
    static const int slots[] = { 14, 28, 56, 112 };
    for (int i = 0; i < 4; i++) {
        check_case("hit rates with %d of %d slots", slots[i], N_EXPERTS);
        double share = (double)slots[i] / N_EXPERTS;
        struct outcome uniform = follow_new(PICK_UNIFORM, slots[i]);
        struct outcome recency = follow_new(PICK_RECENCY, slots[i]);
        struct outcome skewed = follow_new(PICK_SKEWED, slots[i]);
        printf("%3d slots: uniform %.2f, recency %.2f (LRU %.2f), skewed %.2f; moves per step %.2f, "
               "%.2f, %.2f\n", slots[i], uniform.hit_rate, recency.hit_rate, recency.lru,
               skewed.hit_rate, uniform.moves_per_step, recency.moves_per_step,
               skewed.moves_per_step);
        CHECK_MSG(uniform.hit_rate > share - 0.03 && uniform.hit_rate < share + 0.03,
                  "uniform picks hit %.3f of the time", uniform.hit_rate);
        CHECK_MSG(recency.hit_rate > 0.5 * recency.lru && recency.hit_rate > 1.5 * share,
                  "recent picks hit %.3f of the time, LRU %.3f", recency.hit_rate, recency.lru);
        CHECK_MSG(recency.moves_per_step < 0.85 * (1 - recency.lru) * TOP_K,
                  "%.2f moves per step, LRU makes %.2f", recency.moves_per_step,
                  (1 - recency.lru) * TOP_K);
        CHECK_MSG(skewed.hit_rate > share + 0.2, "skewed picks hit %.3f of the time",
                  skewed.hit_rate);
    }
}

static void test_scan(void)
{
    struct pick_trace t;
    check_case("one scan over all experts leaves those that are there alone");
    pick_trace_open(&t, PICK_SKEWED, N_EXPERTS, TOP_K);
    open_cache(1, N_EXPERTS, 56);
    follow(&t, 1500, 56);
    struct outcome before = follow(&t, 1000, 56);
    struct expert_cache_counts counts;
    expert_cache_count(cache, &counts);
    uint64_t moves_before = counts.n_moves;
    scan(1);
    expert_cache_count(cache, &counts);
    struct outcome after = follow(&t, 200, 56);
    printf("skewed %.2f, after a scan with %d moves %.2f\n", before.hit_rate,
           (int)(counts.n_moves - moves_before), after.hit_rate);
    CHECK_MSG(after.hit_rate > before.hit_rate - 0.08, "%.3f, before %.3f", after.hit_rate,
              before.hit_rate);
    expert_cache_close(cache);

    check_case("an endless scan over more than fits keeps what it has, where LRU would hit nothing");
    open_cache(1, N_EXPERTS, 64);
    scan(8);
    struct expert_cache_counts a, b;
    expert_cache_count(cache, &a);
    scan(4);
    expert_cache_count(cache, &b);
    double rate = (double)(b.n_hits - a.n_hits) / (double)(b.n_picks - a.n_picks);
    CHECK_MSG(rate > 0.2, "hits %.3f of the time, a quarter fits", rate);
    CHECK_INT(b.n_moves - a.n_moves, 0);
    expert_cache_close(cache);
}

static void test_same_again(void)
{
    check_case("the same picks give the same tables");
    int32_t *tables[2];
    for (int run = 0; run < 2; run++) {
        uint32_t x = 12345;
        open_cache(3, 32, 8);
        for (int step = 0; step < 300; step++) {
            for (int l = 0; l < 3; l++)
                for (int k = 0; k < 4; k++)
                    use(l, (int)((x = x * 1664525 + 1013904223) >> 27));
            next(3);
        }
        check_table(3, 32, 8);
        tables[run] = malloc(96 * sizeof(int32_t));
        memcpy(tables[run], expert_cache_table(cache), 96 * sizeof(int32_t));
        expert_cache_close(cache);
    }
    CHECK(memcmp(tables[0], tables[1], 96 * sizeof(int32_t)) == 0);
    free(tables[0]);
    free(tables[1]);
}

int main(void)
{
    test_admission();
    test_eviction();
    test_limits();
    test_hit_rates();
    test_scan();
    test_same_again();
    return check_finish();
}
