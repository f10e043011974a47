#include "src/cli/rates.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "cpu/features.h"
#include "src/base/cpus.h"
#include "src/base/log.h"
#include "src/base/util.h"
#include "src/cli/option_table.h"
#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/engine/card.h"
#include "src/engine/engine.h"
#include "src/engine/machine.h"
#include "src/model/forecast.h"
#include "src/model/memory.h"

/* ---- this machine ---- */

/* Attention is not probed. Per core, 1e9 operations a second with one token and with many, as
 * measured behind 4096 and 16384 tokens (docs/performance.md): tiles of BF16, else floats. */
static void add_attention(struct rates *r, const struct machine *m)
{
    bool tiles = strcmp(m->isa, "amx") == 0;
    r->attention_gops = (tiles ? 115 : 30) * m->n_threads;
    r->prompt_attention_gops = (tiles ? 1000 : 140) * m->n_threads;
}

static void copy_measured(struct rates *r, const struct machine *m)
{
    r->dram_gb_s = m->dram_gb_s;
    for (int t = 0; t < N_TENSOR_TYPES; t++) {
        r->dot_gb_s[t] = m->dot_gb_s[t];
        r->gops[t] = m->tile_gops[t];
        /* measured one after the other, others use the machine: what a kernel streams can be read */
        r->dram_gb_s = max_of(r->dram_gb_s, m->dot_gb_s[t]);
    }
    add_attention(r, m);
    r->idle_w = m->idle_w;
    r->busy_w = m->busy_w;
    r->busy_gpu_w = m->busy_gpu_w;
}

static void copy_card(struct rates *r, const struct machine *m, const struct gpu_info *card)
{
    snprintf(r->gpu, sizeof r->gpu, "%s", card->name);
    card_link(card, "", r->link, sizeof r->link);
    r->vram_bytes = card->free_bytes;
    if (strcmp(m->gpu, card->name) != 0) /* rates of another one */
        return;
    r->vram_gb_s = m->vram_gb_s;
    r->pcie_gb_s = m->h2d_gb_s;
    r->gpu_tops = m->gpu_tops;
    r->handoff_s = m->hand_off_us * 1e-6;
}

/* The card that the engine would use, with its rates. What it cannot use is no failure here: a plan
 * without a GPU says why. */
static bool add_card(struct rates *r, struct machine *m, const struct options *o, const char *path,
                     bool measure, struct error *err)
{
    const struct gpu_library *library;
    struct gpu_info card;
    struct error why = { 0 };
    if (o->gpu == GPU_NEVER || (o->gpu_index == 0 && !card_code_installed()))
        return true;
    bool found = measure ? machine_add_card(m, &card, path, (int)o->gpu_index,
                                            signals_cancel_flag(), &why)
                         : card_find(&library, &card, (int)o->gpu_index, &why);
    if (!found && why.code == ERR_INTERRUPTED) {
        *err = why;
        return false;
    }
    if (found)
        copy_card(r, m, &card);
    else
        snprintf(r->no_gpu, sizeof r->no_gpu, "%.159s", why.text);
    return true;
}

bool rates_here(struct rates *r, const struct options *o, bool measure, struct error *err)
{
    char path[PATH_SIZE];
    struct machine m = { 0 };
    struct error why = { 0 };
    unsigned isa = o->isa_given ? o->isa & cpu_isa() : 0;
    bool has_path = path_machine(path, sizeof path);
    int threads = o->what_if ? 0 : (int)o->threads; /* -t is for that machine, measured is this one */
    *r = (struct rates){ .ram_bytes = memory_available(),
                         .n_cores = threads > 0 ? threads : cpus_usable()->n_cores };
    machine_cpu_name(r->cpu, sizeof r->cpu);
    struct progress progress = { 0 };
    if (measure) /* at once, or about a second */
        progress_begin(&progress, "measuring this machine", NULL);
    bool ok = !measure || machine_get(&m, has_path ? path : NULL, r->n_cores, isa,
                                      signals_cancel_flag(), err);
    progress_end(&progress);
    if (!ok)
        return false;
    if (measure || (has_path && machine_load(&m, path, &why)))
        copy_measured(r, &m);
    if (!add_card(r, &m, o, has_path ? path : NULL, measure, err))
        return false;
    if (o->ram_bytes != UNSET)
        r->ram_bytes = min_of(r->ram_bytes, (uint64_t)o->ram_bytes);
    if (o->vram_bytes != UNSET && r->vram_bytes)
        r->vram_bytes = min_of(r->vram_bytes, (uint64_t)o->vram_bytes);
    else if (o->vram_bytes > 0) { /* a GPU that the user says is there */
        r->vram_bytes = (uint64_t)o->vram_bytes;
        snprintf(r->gpu, sizeof r->gpu, "GPU");
    }
    return true;
}

#define SURPRISE 1.1

bool rates_too_low(const struct rates *r, const struct model *m, const struct placement *p,
                   double cache_bytes, double steps_per_s, int64_t depth)
{
    struct forecast f;
    if ((double)m->bytes_per_token < 2 * cache_bytes || !(r->dram_gb_s > 0))
        return false;
    forecast_make(&f, m, p, r, depth, 1);
    return steps_per_s > SURPRISE * f.decode_tok_s.high;
}

void rates_check(const struct engine *e, double steps_per_s, int64_t depth)
{
    char path[PATH_SIZE], cpu[sizeof ((struct machine *)0)->cpu];
    struct machine m;
    struct error ignored = { 0 };
    if (engine_gpu(e) || !path_machine(path, sizeof path) || !machine_load(&m, path, &ignored))
        return;
    machine_cpu_name(cpu, sizeof cpu);
    bool ours = strcmp(cpu, m.cpu) == 0 && m.n_threads == engine_threads(e) &&
                strcmp(m.isa, cpu_isa_name(engine_isa(e))) == 0;
    struct rates r = { .n_cores = m.n_threads };
    copy_measured(&r, &m);
    if (ours && rates_too_low(&r, engine_model(e), engine_placement(e), m.l3_gb * 1e9, steps_per_s,
                              depth) && machine_doubt(path))
        log_detail("decoding was faster than this machine's profile allows: it is measured once more "
                   "when it is needed next");
}

void rates_keep_watts(const struct energy *meter, bool with_gpu, double busy_w)
{
    char path[PATH_SIZE];
    struct machine m;
    struct energy e = *meter;
    struct error why = { 0 };
    bool whole = e.n_zones > 0 && (!with_gpu || e.gpu.card);
    if (!whole || !(busy_w > 0) || !path_machine(path, sizeof path) ||
        !machine_load(&m, path, &why))
        return;
    const struct timespec moment = { .tv_nsec = 300000000 };
    double before = energy_read(&e), start = now_s();
    nanosleep(&moment, NULL);
    m.idle_w = (energy_read(&e) - before) / (now_s() - start);
    *(with_gpu ? &m.busy_gpu_w : &m.busy_w) = busy_w;
    machine_save(&m, path, &why);
}

/* ---- another one ---- */

#define GB_S_PER_CORE 12 /* where only the bandwidth is said, cores that go with it */

/* Rates of this machine say nothing about another one's memory, but what a core can unpack is
 * much the same. */
static void other_memory(struct rates *r, double gb_s, int cores)
{
    double scale = cores && r->n_cores ? (double)cores / r->n_cores : 0;
    for (int t = 0; t < N_TENSOR_TYPES; t++) {
        r->dot_gb_s[t] = min_of(r->dot_gb_s[t] * scale, 0.9 * gb_s);
        r->gops[t] *= scale;
    }
    r->dram_gb_s = gb_s;
    r->attention_gops = r->prompt_attention_gops = 0;
    r->disk_gb_s = 0;
    r->idle_w = r->busy_w = r->busy_gpu_w = 0;
}

struct what_if {
    double bw, cores, vbw, pcie, disk, handoff, tops;
    int64_t ram, vram;
};

static bool read_number(const char *value, double *number)
{
    char *end;
    errno = 0;
    *number = strtod(value, &end);
    return end != value && !*end && !errno && *number > 0 && *number < 1e9;
}

static bool read_word(struct what_if *w, struct rates *r, const char *word, struct error *err)
{
    const struct {
        const char *key;
        double *number;
    } rows[] = {
        { "bw", &w->bw }, { "cores", &w->cores }, { "vbw", &w->vbw }, { "pcie", &w->pcie },
        { "disk", &w->disk }, { "handoff", &w->handoff }, { "tops", &w->tops },
    };
    const char *equals = strchr(word, '=');
    size_t len = equals ? (size_t)(equals - word) : 0;
    if (len == 3 && memcmp(word, "gpu", 3) == 0) {
        snprintf(r->gpu, sizeof r->gpu, "%s", equals + 1);
        return true;
    }
    bool ok = false;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (len == strlen(rows[i].key) && memcmp(word, rows[i].key, len) == 0)
            ok = read_number(equals + 1, rows[i].number);
    if (len == 3 && memcmp(word, "ram", 3) == 0)
        ok = option_size(equals + 1, 1, &w->ram);
    if (len == 4 && memcmp(word, "vram", 4) == 0)
        ok = option_size(equals + 1, 0, &w->vram);
    return ok || fail(err, ERR_USAGE, "option --what-if: \"%s\": expected ram=512G, bw=460, "
                      "vram=24G, vbw=1000, pcie=25, cores=32, disk=3, handoff=30 (µs), tops=80 or "
                      "gpu=NAME", word);
}

bool rates_what_if(struct rates *r, const char *text, struct error *err)
{
    struct what_if w = { .ram = -1, .vram = -1 };
    char word[128];
    struct rates here = *r;
    r->gpu[0] = 0;
    for (const char *at = text; *at;) {
        size_t len = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)min_of(len, sizeof word - 1), at);
        if (!read_word(&w, r, word, err))
            return false;
        at += len + (at[len] == ',');
    }
    if (w.bw > 0)
        other_memory(r, w.bw, (int)w.cores);
    if (w.bw > 0 || w.cores > 0 || w.ram >= 0)
        snprintf(r->cpu, sizeof r->cpu, "another machine");
    if (w.cores > 0 || w.bw > 0)
        r->n_cores = w.cores > 0 ? (int)w.cores : max_of(2, (int)(w.bw / GB_S_PER_CORE));
    if (w.vram >= 0) /* another card: this one's rates say nothing about it */
        r->vram_gb_s = r->pcie_gb_s = r->gpu_tops = r->handoff_s = r->link[0] = 0;
    else if (!r->gpu[0])
        memcpy(r->gpu, here.gpu, sizeof r->gpu);
    r->ram_bytes = w.ram >= 0 ? (uint64_t)w.ram : r->ram_bytes;
    r->vram_bytes = w.vram >= 0 ? (uint64_t)w.vram : r->vram_bytes;
    r->vram_gb_s = w.vbw > 0 ? w.vbw : r->vram_gb_s;
    r->pcie_gb_s = w.pcie > 0 ? w.pcie : r->pcie_gb_s;
    r->disk_gb_s = w.disk > 0 ? w.disk : r->disk_gb_s;
    r->gpu_tops = w.tops > 0 ? w.tops : r->gpu_tops;
    r->handoff_s = w.handoff > 0 ? w.handoff * 1e-6 : r->handoff_s;
    if (r->vram_bytes && !r->gpu[0])
        snprintf(r->gpu, sizeof r->gpu, "GPU");
    return true;
}
