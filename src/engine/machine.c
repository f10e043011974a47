#include "src/engine/machine.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cpu/features.h"
#include "cpu/probe.h"
#include "src/base/cpus.h"
#include "src/base/log.h"
#include "src/base/pool.h"
#include "src/base/util.h"
#include "src/engine/card.h"
#include "src/engine/handoff_probe.h"
#include "src/format/quant.h"
#include "src/model/memory.h"

#define MIB ((size_t)1 << 20)

/* Experts of the size of V2-Lite's and V3's at about 4.5 bits, as many as a token picks. */
#define SMALL_EXPERT 4.9e6
#define SMALL_PICKS 6
#define LARGE_EXPERT 24.8e6
#define LARGE_PICKS 8

#define QUICK_TOKENS 128 /* per expert where a quick probe times tiles */
#define SLOW_GB_S 1.0    /* per worker with one token: plain C, whose tiles would take seconds */

/* ---- who are we ---- */

void machine_cpu_name(char *name, size_t size)
{
    char line[256];
    snprintf(name, size, "unknown CPU");
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, "model name", 10) != 0)
            continue;
        colon += 1 + (colon[1] == ' ');
        colon[strcspn(colon, "\n")] = 0;
        snprintf(name, size, "%s", colon);
        break;
    }
    if (f)
        fclose(f);
}

/* The last cache that one core sees; what the system calls the third level, else the second. */
static size_t last_cache(void)
{
    long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE), l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return (size_t)max_of(max_of(l3, l2), 0);
}

static unsigned isa_of(const struct machine_options *o)
{
    return o->isa_given ? o->isa & cpu_isa() : cpu_isa();
}

static void introduce(struct machine *m, const struct machine_options *o)
{
    memset(m, 0, sizeof *m);
    machine_cpu_name(m->cpu, sizeof m->cpu);
    snprintf(m->isa, sizeof m->isa, "%s", cpu_isa_name(isa_of(o)));
    m->n_threads = o->n_threads > 0 ? o->n_threads : cpu_usable_cores();
    m->n_nodes = cpus_usable()->n_nodes;
    m->detail = o->detail;
    m->l3_gb = (double)last_cache() / 1e9;
}

/* ---- measuring ---- */

struct run {
    struct machine *m;
    const struct machine_options *o;
    struct probe *probe;
    unsigned isa;
    double start_s, expected_s; /* for progress */
};

static bool stopped(const struct run *r)
{
    if (r->o->progress)
        r->o->progress(r->o->progress_ctx, fmin(1, (now_s() - r->start_s) / r->expected_s));
    return r->o->cancel && atomic_load_explicit(r->o->cancel, memory_order_relaxed);
}

/* Together four times the last cache, and no worker less than twice of it where few share it: no
 * more than a quarter of what is free. */
static size_t worker_bytes(const struct machine *m, bool quick)
{
    size_t cache = last_cache(), n = (size_t)m->n_threads;
    size_t bytes = quick ? 256 * MIB / n : max_of(4 * cache / min_of(n, 2), 128 * MIB);
    size_t most = (size_t)min_of(memory_available() / 4, (uint64_t)SIZE_MAX);
    return max_of(min_of(bytes, most / n), 32 * MIB);
}

static void add_point(struct run *r, int threads, double seconds)
{
    struct machine *m = r->m;
    const char *reader = "";
    double gb_s = probe_read(r->probe, threads, seconds, &reader);
    m->curve[m->n_points++] = (struct machine_point){ threads, gb_s };
    if (gb_s <= m->dram_gb_s)
        return;
    m->dram_gb_s = gb_s;
    m->best_threads = threads;
    snprintf(m->reader, sizeof m->reader, "%s", reader);
}

static bool measure_memory(struct run *r)
{
    struct machine *m = r->m;
    bool quick = m->detail == MACHINE_QUICK;
    double seconds = quick ? 0.25 : m->detail == MACHINE_FULL ? 1.5 : 0.6;
    for (int n = quick ? m->n_threads : 1; m->n_points < MACHINE_MAX_POINTS; n *= 2) {
        add_point(r, min_of(n, m->n_threads), seconds);
        if (stopped(r))
            return false;
        if (n >= m->n_threads)
            break;
    }
    for (int i = m->n_points - 1; i >= 0; i--)
        if (m->curve[i].gb_s >= 0.95 * m->dram_gb_s)
            m->enough_threads = m->curve[i].threads;
    return true;
}

/* Three matrices of each expert, a share for each worker. */
static struct probe_order order_of(const struct machine *m, double expert_bytes, int picks)
{
    return (struct probe_order){ (size_t)(expert_bytes / 3 / m->n_threads), 3 * picks };
}

static bool measure_streams(struct run *r)
{
    struct machine *m = r->m;
    double seconds = m->detail == MACHINE_QUICK ? 0.06 : 0.5;
    m->stream_gb_s = probe_stream(r->probe, order_of(m, SMALL_EXPERT, SMALL_PICKS), seconds);
    if (stopped(r))
        return false;
    if (m->detail != MACHINE_QUICK)
        m->stream_large_gb_s = probe_stream(r->probe, order_of(m, LARGE_EXPERT, LARGE_PICKS),
                                            seconds);
    return !stopped(r);
}

/* One type with one token and with many. */
static void measure_type(struct run *r, unsigned isa, enum tensor_type type, double *gb_s,
                         double *gops)
{
    bool quick = r->m->detail == MACHINE_QUICK;
    struct probe_order order = order_of(r->m, SMALL_EXPERT, SMALL_PICKS), one = order;
    struct probe_rate rate;
    one.n_slices = 1;
    if (probe_kernel(r->probe, isa, type, 1, quick ? one : order, quick ? 0.012 : 0.12, &rate))
        *gb_s = rate.gb_s;
    bool needed = type == TYPE_Q4_K || type == TYPE_Q8_0; /* stand in for those that were not timed */
    if (quick && !needed && *gb_s < SLOW_GB_S * r->m->n_threads)
        return;
    int n_tokens = quick ? QUICK_TOKENS : PROBE_MAX_TOKENS;
    if (probe_kernel(r->probe, isa, type, n_tokens, one, quick ? 0.015 : 0.08, &rate))
        *gops = rate.gops;
}

static bool measure_kernels(struct run *r)
{
    struct machine *m = r->m;
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        measure_type(r, r->isa, (enum tensor_type)type, &m->dot_gb_s[type], &m->tile_gops[type]);
        if (stopped(r))
            return false;
    }
    if (m->detail == MACHINE_QUICK)
        return true;
    struct probe_order order = order_of(m, SMALL_EXPERT, 1);
    struct probe_rate rate;
    for (int i = 0; i < MACHINE_TOKENS; i++) {
        if (probe_kernel(r->probe, r->isa, TYPE_Q4_K, 1 << i, order, 0.15, &rate))
            m->gemm_gops[i] = rate.gops;
        if (stopped(r))
            return false;
    }
    return true;
}

/* Types whose kernel is the stronger set's own need no second measurement. */
static bool measure_set(struct run *r, struct machine_set *set, unsigned isa)
{
    const struct machine *m = r->m;
    snprintf(set->isa, sizeof set->isa, "%s", cpu_isa_name(isa));
    for (int i = 0; i < N_TENSOR_TYPES; i++) {
        enum tensor_type type = (enum tensor_type)i;
        if (probe_same_kernel(isa, r->isa, type, PROBE_MAX_TOKENS)) {
            set->dot_gb_s[i] = m->dot_gb_s[i];
            set->tile_gops[i] = m->tile_gops[i];
            continue;
        }
        measure_type(r, isa, type, &set->dot_gb_s[i], &set->tile_gops[i]);
        if (stopped(r))
            return false;
    }
    return true;
}

static bool measure_weaker_sets(struct run *r)
{
    static const char *const ladder[] = { "avx512", "avx2" };
    struct machine *m = r->m;
    unsigned last = r->isa, cap;
    for (size_t i = 0; i < ARRAY_LEN(ladder) && m->n_sets < MACHINE_SETS; i++) {
        bool known = cpu_isa_cap(ladder[i], &cap);
        if (!known || (r->isa & cap) == last)
            continue;
        last = r->isa & cap;
        if (!measure_set(r, &m->sets[m->n_sets++], last))
            return false;
    }
    return true;
}

/* A kernel that outran the readers proves that other programs held them up: they try again. What then
 * is still faster was reading too. */
static bool measure_memory_again(struct run *r)
{
    struct machine *m = r->m;
    double fastest = 0;
    int which = 0;
    for (int i = 0; i < N_TENSOR_TYPES; i++) {
        if (m->dot_gb_s[i] > fastest) {
            fastest = m->dot_gb_s[i];
            which = i;
        }
    }
    for (int i = 0; i < 3 && fastest > m->dram_gb_s && !stopped(r); i++) {
        m->n_points = 0;
        m->dram_gb_s = 0;
        if (!measure_memory(r) || !measure_streams(r))
            return false;
    }
    if (fastest > m->dram_gb_s) {
        m->dram_gb_s = fastest;
        m->best_threads = m->n_threads;
        snprintf(m->reader, sizeof m->reader, "the kernel of %s",
                 quant_traits((uint32_t)which)->name);
    }
    return !stopped(r);
}

bool machine_probe(struct machine *m, const struct machine_options *o, struct error *err)
{
    static const double expected_s[] = { 1, 5, 25 };
    bool quick = o->detail == MACHINE_QUICK;
    introduce(m, o);
    struct run r = { .m = m, .o = o, .isa = isa_of(o), .start_s = now_s(),
                     .expected_s = expected_s[o->detail] };
    struct probe_options po = { .n_threads = m->n_threads, .isa = r.isa, .cancel = o->cancel,
                                .worker_bytes = worker_bytes(m, quick),
                                .fill_s = quick ? 0.25 : 20 };
    if (!probe_open(&r.probe, &po, err))
        return false;
    m->n_threads = probe_threads(r.probe);
    m->region_gb = (double)probe_region_bytes(r.probe) / 1e9;
    m->huge_share = probe_huge_share(r.probe);
    bool ok = measure_memory(&r) && measure_streams(&r);
    if (ok)
        m->int8_gops = probe_int8(r.probe, r.isa, quick ? 0.05 : 0.3);
    ok = ok && !stopped(&r) && (o->detail == MACHINE_LIMITS || measure_kernels(&r)) &&
         (o->detail != MACHINE_FULL || (measure_memory_again(&r) && measure_weaker_sets(&r)));
    probe_close(r.probe);
    return ok || fail(err, ERR_INTERRUPTED, "interrupted");
}

static void keep_better(double *rate, double other)
{
    *rate = max_of(*rate, other);
}

/* The best of what is known and of another probe on the same machine; what that did not measure stays. */
static void add_sitting(struct machine *known, const struct machine *now)
{
    if (now->dram_gb_s > known->dram_gb_s) {
        known->best_threads = now->best_threads;
        known->enough_threads = now->enough_threads;
        snprintf(known->reader, sizeof known->reader, "%s", now->reader);
    }
    keep_better(&known->dram_gb_s, now->dram_gb_s);
    keep_better(&known->stream_gb_s, now->stream_gb_s);
    keep_better(&known->int8_gops, now->int8_gops);
    for (int i = 0; i < N_TENSOR_TYPES; i++) {
        keep_better(&known->dot_gb_s[i], now->dot_gb_s[i]);
        keep_better(&known->tile_gops[i], now->tile_gops[i]);
    }
    for (int i = 0; i < known->n_points; i++)
        for (int k = 0; k < now->n_points; k++)
            if (known->curve[i].threads == now->curve[k].threads)
                keep_better(&known->curve[i].gb_s, now->curve[k].gb_s);
    known->sittings = max_of(known->sittings, 1) + 1;
    known->doubted = 0;
}

static bool may_sit(const struct machine *m)
{
    return m->sittings < MACHINE_SITTINGS;
}

bool machine_doubt(const char *path)
{
    struct machine m;
    struct error ignored = { 0 };
    if (!machine_load(&m, path, &ignored) || m.doubted || !may_sit(&m))
        return false;
    m.doubted = 1;
    return machine_save(&m, path, &ignored);
}

bool machine_get(struct machine *m, const char *path, int n_threads, unsigned isa,
                 const atomic_int *cancel, struct error *err)
{
    struct machine_options o = { .detail = MACHINE_QUICK, .n_threads = n_threads, .isa = isa,
                                 .isa_given = isa != 0, .cancel = cancel };
    struct machine known;
    struct error why = { 0 };
    introduce(m, &o);
    bool ours = path && machine_load(&known, path, &why) && strcmp(known.cpu, m->cpu) == 0 &&
                strcmp(known.isa, m->isa) == 0 && known.n_threads == m->n_threads &&
                known.dram_gb_s > 0;
    if (ours && !(known.doubted && may_sit(&known))) {
        *m = known;
        return true;
    }
    if (!machine_probe(m, &o, err))
        return false;
    if (ours) {
        add_sitting(&known, m);
        *m = known;
    }
    error_clear(&why);
    if (path && !machine_save(m, path, &why))
        log_detail("the machine's profile is not kept: %s", why.text);
    return true;
}

bool machine_add_card(struct machine *m, struct gpu_info *info, const char *path, int index,
                      const atomic_int *cancel, struct error *err)
{
    const struct gpu_library *library;
    struct card_rates r;
    struct error why = { 0 };
    if (!card_find(&library, info, index, err))
        return false;
    if (strcmp(m->gpu, info->name) == 0 && m->vram_gb_s > 0 && m->hand_off_us > 0)
        return true;
    if (!card_probe(&r, index, cancel, err))
        return false;
    snprintf(m->gpu, sizeof m->gpu, "%s", info->name);
    m->vram_gb_s = r.vram_gb_s;
    m->h2d_gb_s = r.h2d_gb_s;
    m->d2h_gb_s = r.d2h_gb_s;
    m->gpu_tops = r.tops;
    m->hand_off_us = handoff_us(&r.handoff, HANDOFF_AUTO);
    if (path && !machine_save(m, path, &why))
        log_detail("the card's rates are not kept: %s", why.text);
    return true;
}
