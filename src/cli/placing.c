#include "src/cli/placing.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <strings.h>

#include "cpu/features.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/pattern.h"
#include "src/base/util.h"
#include "src/cli/drafting.h"
#include "src/cli/rates.h"
#include "src/cli/term.h"
#include "src/model/memory.h"

/* ---- rules of -ot ---- */

/* "cpu", "gpu", and what other programs call the same: "CPU", "CUDA0". */
static bool read_side(const char *word, size_t len, bool *on_gpu)
{
    bool cpu = len == 3 && strncasecmp(word, "cpu", 3) == 0;
    *on_gpu = (len == 3 && strncasecmp(word, "gpu", 3) == 0) ||
              (len == 5 && strncasecmp(word, "cuda0", 5) == 0);
    return cpu || *on_gpu;
}

static bool add_rule(struct placing *p, const char *text, size_t len, struct error *err)
{
    char pattern[256];
    const char *equals = memrchr(text, '=', len);
    struct placement_rule *rule = &p->rules[p->wishes.n_rules];
    size_t n = equals ? (size_t)(equals - text) : 0;
    if (!n || n >= sizeof pattern || !read_side(equals + 1, len - n - 1, &rule->on_gpu))
        return fail(err, ERR_USAGE, "option -ot: \"%.*s\": expected RE=cpu or RE=gpu",
                    (int)len, text);
    snprintf(pattern, sizeof pattern, "%.*s", (int)n, text);
    if (!pattern_open(&rule->name, pattern, err))
        return error_prefix(err, "option -ot");
    p->wishes.n_rules++;
    return true;
}

/* Several rules may stand behind one -ot, separated by commas. */
static bool add_rules(struct placing *p, const struct options *o, struct error *err)
{
    size_t n = 0;
    for (int i = 0; i < o->overrides.n; i++)
        for (const char *c = o->overrides.items[i]; c; c = strchr(c + 1, ','))
            n++;
    if (n == 0)
        return true;
    p->rules = mem_alloc(n, sizeof *p->rules, "placement rules", err);
    for (int i = 0; p->rules && i < o->overrides.n; i++) {
        for (const char *at = o->overrides.items[i];; at++) {
            size_t len = strcspn(at, ",");
            if (!add_rule(p, at, len, err))
                return false;
            at += len;
            if (!*at)
                break;
        }
    }
    p->wishes.rules = p->rules;
    return p->rules;
}

/* The text of rule `index`, up to its end or a comma. */
static const char *rule_text(const struct options *o, int index, size_t *len)
{
    for (int i = 0; i < o->overrides.n; i++) {
        for (const char *at = o->overrides.items[i];; at += *len + 1) {
            *len = strcspn(at, ",");
            if (index-- == 0)
                return at;
            if (!at[*len])
                break;
        }
    }
    *len = 0;
    return "";
}

void placing_tell_idle(const struct placing *p, const struct options *o, const struct model *m)
{
    for (int r = 0; r < p->wishes.n_rules; r++) {
        bool matches = false;
        for (int i = 0; i < m->n_tensors && !matches; i++)
            matches = regexec(&p->rules[r].name, m->tensors[i].tensor->name, 0, NULL, 0) == 0;
        size_t len;
        const char *text = rule_text(o, r, &len);
        if (!matches)
            log_warning("option -ot: no tensor matches %.*s (extended regular expressions; "
                        "inspect --tensors lists the names)", (int)len, text);
    }
}

static int or_auto(int64_t value)
{
    return value == UNSET ? PLACE_AUTO : (int)min_of(value, (int64_t)PLACE_ALL);
}

bool placing_open(struct placing *p, const struct options *o, struct error *err)
{
    *p = (struct placing){ .wishes = placement_wishes_default() };
    p->engine = (struct engine_options){
        .n_threads = (int)o->threads,
        .isa = o->isa & cpu_isa(),
        .isa_given = o->isa_given,
        .numerics = (enum numerics)o->numerics,
        .act_f32 = o->act_f32,
        .n_batch = (int)o->batch,
        .load = (enum load_mode)o->load,
        .gpu = (enum gpu_use)o->gpu,
        .gpu_index = (int)o->gpu_index,
        .handoff = (enum handoff_way)o->handoff,
        .gpu_layers = (int)o->gpu_layers,
        .n_nodes = o->numa,
        .lock = o->mlock,
        .draft_model = o->draft_model,
        .n_ctx = o->ctx_size == UNSET ? 0 : o->ctx_size == 0 ? CONTEXT_TRAINED : o->ctx_size,
        .max_ram_bytes = o->ram_bytes == UNSET ? 0 : (uint64_t)o->ram_bytes,
        .max_vram_bytes = o->vram_bytes == UNSET ? 0 : (uint64_t)o->vram_bytes,
    };
    struct placement_wishes *w = &p->wishes;
    w->cache_type = o->cache_type == 1 ? TYPE_F32 : TYPE_F16;
    w->force = o->force;
    w->draft = draft_wish(o->draft) != DRAFT_OFF;
    w->cpu_moe = or_auto(o->cpu_moe);
    w->gpu_experts = or_auto(o->gpu_experts);
    w->gpu_experts_bytes = (uint64_t)o->gpu_experts_bytes;
    w->gpu_experts_share = isnan(o->gpu_experts_share) ? -1 : o->gpu_experts_share;
    w->vram_margin = o->vram_bytes == UNSET ? (uint64_t)o->vram_margin : 0;
    return add_rules(p, o, err);
}

void placing_close(struct placing *p)
{
    for (int i = 0; i < p->wishes.n_rules; i++)
        regfree(&p->rules[i].name);
    mem_free(p->rules);
    *p = (struct placing){ 0 };
}

/* ---- ways out ---- */

/* Mixtures to propose, from the largest: bits per weight over a whole mixture-of-experts file. */
static const struct {
    const char *name;
    double bits;
} mixtures[] = {
    { "q8_0", 8.5 }, { "q6_k", 6.57 }, { "q5_k_m", 5.7 }, { "q4_k_m", 4.83 }, { "iq4_xs", 4.27 },
    { "q3_k_m", 3.82 }, { "iq3_xxs", 3.1 }, { "q2_k", 2.93 }, { "iq2_xxs", 2.1 }, { "iq1_s", 1.62 },
};

/* Main memory that weights may take beside everything else. */
static double room_for_weights(const struct placement *p)
{
    double other = 0;
    for (int part = PART_CACHE; part < N_PARTS; part++)
        other += (double)p->bytes[part][HOME_RAM];
    return (double)p->ram_budget - other;
}

/* "models/r1-q8.gguf" -> "r1-q4_k_m.gguf" */
static void new_name(char *name, size_t size, const char *path, const char *type)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t len = strlen(base);
    if (len > 5 && strcmp(base + len - 5, ".gguf") == 0)
        len -= 5;
    if (len > 15 && memcmp(base + len - 15, "-00001-of-", 10) == 0)
        len -= 15;
    snprintf(name, size, "%.*s-%s.gguf", (int)len, base, type);
}

static int add_mixture(struct way_out *ways, int n, const struct model *m,
                       const struct placement *p, const char *path)
{
    double have = 8.0 * (double)m->weight_bytes / (double)max_of(m->n_elements, 1u);
    double room = room_for_weights(p);
    for (size_t i = 0; i < ARRAY_LEN(mixtures) && n < MAX_WAYS; i++) {
        double bytes = mixtures[i].bits / 8 * (double)m->n_elements;
        char name[256], size[32], from[PATH_SIZE], to[PATH_SIZE];
        if (mixtures[i].bits > 0.97 * have || bytes > room)
            continue;
        new_name(name, sizeof name, path, mixtures[i].name);
        snprintf(size, sizeof size, "%.0f GiB", bytes / 1073741824);
        if (bytes < 10737418240)
            snprintf(size, sizeof size, "%.1f GiB", bytes / 1073741824);
        snprintf(ways[n].what, sizeof ways[n].what, "a file of %.1f bits per weight, about %s",
                 mixtures[i].bits, size);
        snprintf(ways[n].command, sizeof ways[n].command, "tandem quantize %s %s %s",
                 shell_word(from, sizeof from, path), shell_word(to, sizeof to, name), mixtures[i].name);
        return n + 1;
    }
    return n;
}

/* "370G", "900M": not more than there are. */
static void size_option(char text[32], uint64_t bytes)
{
    bool large = bytes >= (uint64_t)16 << 30;
    snprintf(text, 32, "%llu%c", (unsigned long long)(bytes >> (large ? 30 : 20)), large ? 'G' : 'M');
}

/* Where a named mixture fits, the best types for just this machine do, too. */
static int add_budget(struct way_out *ways, int n, const struct rates *mc,
                      const struct placement_wishes *w, const char *path)
{
    char name[256], ram[32], vram[64] = "", size[32], from[PATH_SIZE], to[PATH_SIZE];
    if (n >= MAX_WAYS || mc->ram_bytes == UINT64_MAX)
        return n;
    new_name(name, sizeof name, path, "fit");
    size_option(ram, mc->ram_bytes);
    if (mc->vram_bytes > w->vram_margin && w->gpu_layers != 0) {
        size_option(size, mc->vram_bytes - w->vram_margin);
        snprintf(vram, sizeof vram, " --fit-vram %s", size);
    }
    snprintf(ways[n].what, sizeof ways[n].what, "the best types for this machine");
    snprintf(ways[n].command, sizeof ways[n].command, "tandem quantize %s %s --fit-ram %s%s",
             shell_word(from, sizeof from, path), shell_word(to, sizeof to, name), ram, vram);
    return n + 1;
}

/* Does it fit with these other wishes? */
static bool would_fit(struct placement *p, const struct model *m, const struct rates *mc,
                      const struct placement_wishes *w)
{
    struct error ignored = { 0 };
    bool ok = placement_make(p, m, mc, w, &ignored) && p->fits;
    if (!ok)
        placement_free(p);
    return ok;
}

void range_text(char *text, size_t size, const struct range *r)
{
    int digits = r->high < 1 ? 2 : r->high < 10 ? 1 : 0;
    snprintf(text, size, "%.*f - %.*f", digits, r->low, digits, r->high);
}

static int add_context(struct way_out *ways, int n, const struct model *m,
                       const struct placement *p, const struct rates *mc,
                       const struct placement_wishes *w, const char *command, const char *path)
{
    struct placement_wishes shorter = *w;
    struct placement q;
    shorter.n_ctx = 0;
    if (n == MAX_WAYS || !w->n_ctx || !would_fit(&q, m, mc, &shorter))
        return n;
    int64_t n_ctx = max_of(q.n_ctx, min_of(p->fitting_ctx, w->n_ctx - 1));
    placement_free(&q);
    snprintf(ways[n].what, sizeof ways[n].what, "a shorter context");
    snprintf(ways[n].command, sizeof ways[n].command, "tandem %s %s -c %lld", command, path,
             (long long)n_ctx);
    return n + 1;
}

static int add_wish(struct way_out *ways, int n, const char *what, const char *flags,
                    const struct placement_wishes *w, const struct model *m,
                    const struct rates *mc, const char *command, const char *path)
{
    struct placement q;
    char context[32] = "";
    if (n == MAX_WAYS || !would_fit(&q, m, mc, w))
        return n;
    if (w->n_ctx)
        snprintf(context, sizeof context, " -c %lld", (long long)w->n_ctx);
    placement_free(&q);
    snprintf(ways[n].what, sizeof ways[n].what, "%s", what);
    snprintf(ways[n].command, sizeof ways[n].command, "tandem %s %s%s%s", command, path, context,
             flags);
    return n + 1;
}

/* Reading experts from the disk, with what that costs. */
static int add_disk(struct way_out *ways, int n, const struct model *m, const struct rates *mc,
                    const struct placement_wishes *w, const char *command, const char *path)
{
    struct placement_wishes forced = *w;
    struct placement q;
    forced.force = true;
    forced.load = LOAD_MMAP;
    if (n == MAX_WAYS || w->force || !would_fit(&q, m, mc, &forced))
        return n;
    struct forecast f;
    char rate[48];
    forecast_make(&f, m, &q, mc, 0, q.n_batch);
    range_text(rate, sizeof rate, &f.decode_tok_s);
    snprintf(ways[n].what, sizeof ways[n].what, "read experts from the disk (%s tok/s)", rate);
    snprintf(ways[n].command, sizeof ways[n].command, "tandem %s %s -c %lld --load mmap --force",
             command, path, (long long)q.n_ctx);
    placement_free(&q);
    return n + 1;
}

/* Experts of as many of the last layers to VRAM as main memory is short of. */
static int add_experts_on_gpu(struct way_out *ways, int n, const struct model *m,
                              const struct placement *p, const struct rates *mc,
                              const struct placement_wishes *w, const char *command,
                              const char *path)
{
    struct placement_wishes other = *w;
    int n_layers = m->params.n_layers, n_moe = n_layers - m->params.n_dense_lead;
    double routed = (double)(p->bytes[PART_ROUTED][HOME_RAM] + p->bytes[PART_ROUTED][HOME_MAPPED]);
    double lacking = (double)(p->ram_used + p->ram_mapped) - (double)p->ram_budget;
    if (w->cpu_moe != PLACE_AUTO || !mc->vram_bytes || n_moe <= 0 || !(routed > 0))
        return n;
    int layers = (int)min_of(ceil(lacking / routed * n_moe), (double)n_moe), before = n;
    for (int more = 0; more < 3 && layers <= n_moe && n == before; more++, layers++) {
        char what[64], flags[32];
        other.cpu_moe = n_layers - layers;
        snprintf(what, sizeof what, "experts of the last %d layers in VRAM", layers);
        snprintf(flags, sizeof flags, " -ncmoe %d", other.cpu_moe);
        n = add_wish(ways, n, what, flags, &other, m, mc, command, path);
    }
    return n;
}

/* Where the user's own limit is what lacks: a higher one, with what a copy leaves to others. */
static int add_limit(struct way_out *ways, int n, const struct model *m, const struct placement *p,
                     const struct rates *mc, const struct placement_wishes *w,
                     const struct options *o, const char *command, const char *path)
{
    struct rates larger = *mc;
    char ram[32], flags[64];
    uint64_t unit = (uint64_t)1 << 30, least = p->ram_used + p->ram_mapped + unit / 2;
    unit = least < 16 * unit ? unit / 1024 : unit; /* as size_option writes it */
    larger.ram_bytes = (least / unit + 1) * unit;
    if (o->ram_bytes == UNSET || o->what_if || larger.ram_bytes > memory_available())
        return n;
    size_option(ram, larger.ram_bytes);
    snprintf(flags, sizeof flags, " --ram %s", ram);
    return add_wish(ways, n, "a higher limit", flags, w, m, &larger, command, path);
}

/* The same file with as much memory as it wants. */
static int add_memory(struct way_out *ways, int n, const struct model *m,
                      const struct placement *p, const struct rates *mc,
                      const struct placement_wishes *w, const char *path)
{
    double gib = (double)(p->ram_used + p->ram_mapped) / 1073741824;
    struct rates larger = *mc;
    struct placement_wishes mapped = *w;
    struct placement q;
    mapped.load = LOAD_MMAP;
    larger.ram_bytes = (uint64_t)(ceil(gib + 0.2) * 1073741824);
    if (n == MAX_WAYS || larger.ram_bytes <= mc->ram_bytes || !would_fit(&q, m, &larger, &mapped))
        return n;
    snprintf(ways[n].what, sizeof ways[n].what, "a machine with %.0f GiB free", ceil(gib + 0.2));
    snprintf(ways[n].command, sizeof ways[n].command, "tandem plan %s -c %lld --what-if ram=%.0fG",
             path, (long long)p->n_ctx, ceil(gib + 0.2));
    placement_free(&q);
    return n + 1;
}

int placing_ways(struct way_out ways[MAX_WAYS], const struct model *m, const struct placement *p,
                 const struct rates *mc, const struct placement_wishes *w, const struct options *o,
                 const char *file)
{
    static const char command[] = "chat";
    char path[PATH_SIZE];
    shell_word(path, sizeof path, file);
    int n = add_context(ways, 0, m, p, mc, w, command, path);
    struct placement_wishes other = *w;
    if (w->load == LOAD_COPY) {
        other.load = LOAD_MMAP;
        n = add_wish(ways, n, "use the weights where the file is mapped", " --load mmap", &other, m,
                     mc, command, path);
    }
    other = *w;
    other.n_batch = 64;
    if (w->n_batch > 64)
        n = add_wish(ways, n, "shorter steps while reading prompts", " -b 64", &other, m, mc,
                     command, path);
    if (p->short_home == HOME_GPU) {
        other = *w;
        other.gpu_layers = other.cpu_moe = other.gpu_experts = PLACE_AUTO;
        other.gpu_experts_bytes = 0;
        other.gpu_experts_share = -1;
        n = add_wish(ways, n, "as much on the GPU as fits", " -ngl auto", &other, m, mc, command,
                     path);
        other.gpu_layers = 0;
        n = add_wish(ways, n, "without the GPU", " -ngl 0", &other, m, mc, command, path);
    } else {
        int before = n;
        n = add_limit(ways, n, m, p, mc, w, o, command, path);
        bool limited = n > before;
        before = n = add_experts_on_gpu(ways, n, m, p, mc, w, command, path);
        n = add_mixture(ways, n, m, p, file);
        if (n > before)
            n = add_budget(ways, n, mc, w, file);
        n = add_disk(ways, n, m, mc, w, command, path);
        n = limited ? n : add_memory(ways, n, m, p, mc, w, path);
    }
    return n;
}

void placing_print_ways(struct buf *out, const struct way_out *ways, int n)
{
    int width = 0;
    for (int i = 0; i < n; i++)
        width = max_of(width, (int)strlen(ways[i].what));
    for (int i = 0; i < n; i++)
        buf_printf(out, "  %d. %-*s :  %s\n", i + 1, width, ways[i].what, ways[i].command);
}

void placing_advise(const struct options *o, const struct placing *p, const char *path)
{
    struct way_out ways[MAX_WAYS];
    struct model m = { 0 };
    struct rates mc;
    struct placement q;
    struct error ignored = { 0 };
    struct buf text = { 0 };
    if (!model_open(&m, path, (enum numerics)o->numerics, &ignored) ||
        (o->draft_model && !model_add_block(&m, o->draft_model, &ignored))) {
        model_close(&m);
        return;
    }
    rates_here(&mc, o, false, &ignored);
    struct placement_wishes w = engine_wishes(&p->engine, &m);
    if (placement_make(&q, &m, &mc, &w, &ignored) && !q.fits) {
        int n = placing_ways(ways, &m, &q, &mc, &w, o, path);
        placing_print_ways(&text, ways, n);
        note_later(&text);
        buf_release(&text);
    }
    placement_free(&q);
    model_close(&m);
}
