/* Where a model would go: headers of published files at their real sizes (sparse: no weights), many
 * budgets, overrides, refusals; and the forecast that a placement leads to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/util.h"
#include "src/format/quant.h"
#include "src/model/forecast.h"
#include "tests/check.h"
#include "tests/tiny_model.h"

#define GIB ((uint64_t)1 << 30)

/* ---- files ---- */

struct published {
    const char *name, *options;
    int shards;
    int n_tensors, n_f32;
    double params_b, gb; /* 1e9 parameters, 1e9 bytes of tensors; 0: not published */
    struct {
        enum tensor_type type;
        int n;
    } types[6];
};

/* Counts and sizes as load logs and model cards of published files tell them. */
static const struct published files[] = {
    { "v2-lite", "--like v2-lite --generation a --type f16", 1, 377, 108, 15.7, 31.4, { { 0 } } },
    { "v2", "--like v2 --generation a --type q8_0", 1, 959, 300, 235.7, 250.6, { { 0 } } },
    { "v3", "--like v3 --type q8_0", 1, 1086, 361, 671.0, 713, { { 0 } } },
    { "v3-1025", "--like v3-1025 --type q8_0", 1, 1025, 361, 671.0, 713, { { 0 } } },
    { "r1-ud", "--like v3-1025 --type ud-q2_k_xl --split 6", 6, 1025, 361, 671.0, 226.6,
      { { TYPE_Q2_K, 171 }, { TYPE_Q3_K, 3 }, { TYPE_Q4_K, 306 }, { TYPE_Q6_K, 184 } } },
    { "kimi-k2", "--like kimi-k2 --type q4_k", 1, 1096, 365, 1027, 0, { { 0 } } },
    { "v3.2", "--like v3.2 --type q8_0", 1, 1391, 483, 671.9, 0, { { TYPE_Q8_0, 908 } } },
    { "v4-flash", "--like v4-flash --type native", 1, 1328, 641, 284.3, 0,
      { { TYPE_MXFP4, 129 }, { TYPE_Q8_0, 365 }, { TYPE_BF16, 190 }, { TYPE_I32, 3 } } },
};

static void file_path(char path[256], const struct published *f)
{
    char name[64];
    snprintf(name, sizeof name, "sparse-%s", f->name);
    tiny_path(path, name);
}

/* Path of the first part. */
static void first_part(char part[300], const char *path, int shards)
{
    if (shards == 1)
        snprintf(part, 300, "%s", path);
    else
        snprintf(part, 300, "%.*s-00001-of-%05d.gguf", (int)strlen(path) - 5, path, shards);
}

static bool open_published(struct model *m, const struct published *f)
{
    char path[256], part[300], options[256];
    struct error err = { 0 };
    file_path(path, f);
    first_part(part, path, f->shards);
    snprintf(options, sizeof options, "%s --sparse", f->options);
    return (access(part, F_OK) == 0 || tiny_write(path, options)) &&
           CHECK_MSG(model_open(m, part, NUMERICS_OFFICIAL, &err), "%s", err.text);
}

static void remove_files(void)
{
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[256], part[300];
        file_path(path, &files[i]);
        for (int s = 1; s <= files[i].shards; s++) {
            if (files[i].shards == 1)
                snprintf(part, sizeof part, "%s", path);
            else
                snprintf(part, sizeof part, "%.*s-%05d-of-%05d.gguf", (int)strlen(path) - 5, path,
                         s, files[i].shards);
            unlink(part);
        }
    }
}

static void test_published(void)
{
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        const struct published *f = &files[i];
        struct model m = { 0 };
        int of[N_TENSOR_TYPES] = { 0 };
        double bytes = 0, elements = 0;
        check_case("the header of %s: tensors, types, bytes", f->name);
        if (!open_published(&m, f))
            continue;
        for (uint64_t t = 0; t < m.gguf.n_tensors; t++) {
            of[m.gguf.tensors[t].type]++;
            bytes += (double)m.gguf.tensors[t].bytes;
            elements += (double)(m.gguf.tensors[t].ne[0] * tensor_rows(&m.gguf.tensors[t]));
        }
        CHECK_INT(m.gguf.n_tensors, f->n_tensors);
        CHECK_INT(m.n_tensors, f->n_tensors);
        if (f->n_f32)
            CHECK_INT(of[TYPE_F32], f->n_f32);
        for (size_t t = 0; t < ARRAY_LEN(f->types) && f->types[t].n; t++)
            CHECK_INT(of[f->types[t].type], f->types[t].n);
        CHECK_MSG(elements > 0.998e9 * f->params_b && elements < 1.002e9 * f->params_b,
                  "%.2f B parameters, published are %.1f", elements / 1e9, f->params_b);
        if (f->gb > 0)
            CHECK_MSG(bytes > 0.99e9 * f->gb && bytes < 1.01e9 * f->gb, "%.1f GB, published %.1f",
                      bytes / 1e9, f->gb);
        model_close(&m);
    }
}

/* ---- placements ---- */

static struct rates machine_of(uint64_t ram_gib, uint64_t vram_gib)
{
    struct rates r = { .cpu = "test", .n_cores = 16, .ram_bytes = ram_gib * GIB,
                       .vram_bytes = vram_gib * GIB, .dram_gb_s = 300, .vram_gb_s = 1000,
                       .pcie_gb_s = 25, .gpu_tops = 80, .handoff_s = 30e-6 };
    for (int t = 0; t < N_TENSOR_TYPES; t++) {
        r.dot_gb_s[t] = 250;
        r.gops[t] = 5000;
    }
    return r;
}

static uint64_t sum_parts(const struct placement *p, enum home home)
{
    uint64_t sum = 0;
    for (int part = 0; part < N_PARTS; part++)
        sum += p->bytes[part][home];
    return sum;
}

/* What must hold of every placement, fitting or not. */
static void check_sums(const struct model *m, const struct placement *p, const struct rates *r)
{
    uint64_t rows[N_HOMES + 1] = { 0 }, weights[N_HOMES] = { 0 }, reads = 0, row_reads = 0;
    int n_tensors = 0;
    for (int i = 0; i < p->n_rows; i++) {
        rows[p->rows[i].home] += p->rows[i].bytes;
        row_reads += p->rows[i].bytes_per_token;
        n_tensors += p->rows[i].n_tensors;
    }
    for (int home = 0; home < N_HOMES; home++)
        for (int part = PART_TRUNK; part <= PART_ROUTED; part++) {
            weights[home] += p->bytes[part][home];
            reads += p->bytes_per_token[part][home];
        }
    CHECK_INT(n_tensors, m->n_tensors);
    CHECK_INT(row_reads, reads);
    for (int home = 0; home < N_HOMES; home++) {
        /* beside the rows: what is derived at load, and a copy is whole huge pages */
        uint64_t derived = 0;
        for (int l = 0; l < m->params.n_layers && m->arch->derived_bytes; l++)
            derived += m->arch->derived_bytes(m, l, false);
        CHECK_MSG(weights[home] >= rows[home] &&
                  weights[home] <= rows[home] + derived + (2u << 20), "home %d: %llu of %llu", home,
                  (unsigned long long)weights[home], (unsigned long long)rows[home]);
    }
    CHECK_INT(p->vram_used, sum_parts(p, HOME_GPU));
    CHECK_INT(p->ram_used, sum_parts(p, HOME_RAM));
    CHECK_INT(p->ram_mapped, sum_parts(p, HOME_MAPPED));
    if (!p->fits)
        return;
    CHECK_MSG(p->vram_used <= r->vram_bytes, "%llu bytes of VRAM",
              (unsigned long long)p->vram_used);
    CHECK_MSG(p->ram_used + p->ram_mapped <= r->ram_bytes, "%.1f GiB of RAM",
              (double)(p->ram_used + p->ram_mapped) / (double)GIB);
}

static void check_forecast(const struct forecast *f)
{
    const struct range *d = &f->decode_tok_s, *r = &f->prefill_tok_s;
    CHECK_MSG(d->low > 0 && d->low <= d->mid && d->mid <= d->high, "decode %g %g %g", d->low,
              d->mid, d->high);
    CHECK_MSG(r->low > 0 && r->low <= r->mid && r->mid <= r->high, "prefill %g %g %g", r->low,
              r->mid, r->high);
    CHECK_MSG(d->mid < f->serial_tok_s, "decode %g, serial bound %g", d->mid, f->serial_tok_s);
    CHECK(f->hit_rate >= 0 && f->hit_rate <= 1);
    CHECK(f->bound_first != NULL);
}

static void test_budgets(void)
{
    static const uint64_t rams[] = { 16, 96, 256, 512, 1200 }, vrams[] = { 0, 8, 24, 80 };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct model m = { 0 };
        check_case("%s: sums hold and budgets are kept", files[i].name);
        if (!open_published(&m, &files[i]))
            continue;
        double before = 0;
        for (size_t v = 0; v < ARRAY_LEN(vrams); v++) {
            for (size_t r = 0; r < ARRAY_LEN(rams); r++) {
                struct rates rates = machine_of(rams[r], vrams[v]);
                struct placement_wishes w = placement_wishes_default();
                struct placement p;
                struct forecast f;
                struct error err = { 0 };
                w.vram_margin = GIB / 2;
                if (!CHECK_MSG(placement_make(&p, &m, &rates, &w, &err), "%s", err.text))
                    continue;
                check_sums(&m, &p, &rates);
                forecast_make(&f, &m, &p, &rates, 0, 512);
                check_forecast(&f);
                CHECK(p.fits || m.weight_bytes > (rams[r] - 2) * GIB / 2);
                if (vrams[v] == 0)
                    CHECK(p.gpu_layers == 0 && p.vram_used == 0);
                if (rams[r] == 1200) { /* more VRAM never makes it slower */
                    CHECK_MSG(f.decode_tok_s.mid > 0.99 * before, "%g after %g tok/s with %d GiB",
                              f.decode_tok_s.mid, before, (int)vrams[v]);
                    before = f.decode_tok_s.mid;
                }
                placement_free(&p);
            }
        }
        model_close(&m);
    }
}

/* V3 at 4.5 bits: what an expert would do with a 24 GiB card. */
static void test_expert_choices(void)
{
    const struct published v3 = { "v3-q4", "--like v3 --type q4_k", 1, 0, 0, 0, 0, { { 0 } } };
    struct model m = { 0 };
    struct error err = { 0 };
    struct placement p;
    struct placement_wishes w = placement_wishes_default();
    struct rates r = machine_of(512, 24);
    check_case("24 GiB of VRAM: the whole trunk, the cache, and experts in the rest");
    char path[256];
    file_path(path, &v3);
    if (open_published(&m, &v3) && CHECK(placement_make(&p, &m, &r, &w, &err))) {
        CHECK(p.fits && p.copied && p.head_on_gpu);
        CHECK_INT(p.gpu_layers, 61);
        CHECK(p.n_ctx == 32768 && p.expert_slots > 0);
        CHECK(p.bytes[PART_CACHE][HOME_RAM] == 0);
        CHECK_INT(p.bytes[PART_CACHE][HOME_GPU], (uint64_t)70272 * 32768);
        CHECK_INT(p.bytes[PART_ROUTED][HOME_GPU], 0);
        placement_free(&p);

        check_case("a long context takes the place of cached experts");
        int slots = 0;
        for (int64_t n_ctx = 131072; n_ctx >= 4096; n_ctx /= 8) {
            w.n_ctx = n_ctx;
            CHECK(placement_make(&p, &m, &r, &w, &err) && p.fits && p.expert_slots >= slots);
            CHECK_INT(p.n_ctx, n_ctx);
            slots = p.expert_slots;
            placement_free(&p);
        }
        w.n_ctx = 0;

        check_case("8 GiB of VRAM: fewer layers, still within the budget");
        r.vram_bytes = 8 * GIB;
        CHECK(placement_make(&p, &m, &r, &w, &err) && p.fits);
        CHECK_MSG(p.gpu_layers > 20 && p.gpu_layers < 61, "%d layers", p.gpu_layers);
        CHECK(p.bytes[PART_CACHE][HOME_RAM] > 0 && p.bytes[PART_CACHE][HOME_GPU] > 0);
        placement_free(&p);

        check_case("overrides: layers, experts of some layers, tensors by name");
        r.vram_bytes = 80 * GIB;
        w.gpu_layers = 10;
        w.cpu_moe = 58;
        CHECK(placement_make(&p, &m, &r, &w, &err) && p.fits);
        CHECK_INT(p.gpu_layers, 10);
        CHECK(!p.head_on_gpu && p.bytes[PART_ROUTED][HOME_GPU] > 0);
        for (int i = 0; i < m.n_tensors; i++) {
            const struct model_tensor *t = &m.tensors[i];
            bool gpu = t->role == ROLE_ROUTED ? t->layer >= 58
                                              : t->role == ROLE_TRUNK && t->layer >= 51;
            if (!CHECK_MSG((p.homes[i] == HOME_GPU) == gpu, "%s", t->tensor->name))
                break;
        }
        placement_free(&p);

        struct placement_rule rules[2] = { { .on_gpu = false }, { .on_gpu = true } };
        regcomp(&rules[0].name, "blk\\.60\\.attn", REG_EXTENDED | REG_NOSUB);
        regcomp(&rules[1].name, "blk\\.(5|60)\\.(attn|ffn_up_shexp)", REG_EXTENDED | REG_NOSUB);
        w = placement_wishes_default();
        w.gpu_layers = 0;
        w.rules = rules;
        w.n_rules = 2;
        CHECK(placement_make(&p, &m, &r, &w, &err) && p.fits);
        check_sums(&m, &p, &r);
        for (int i = 0; i < m.n_tensors; i++) {
            const char *name = m.tensors[i].tensor->name;
            bool gpu = strstr(name, "blk.5.attn") || strstr(name, "blk.5.ffn_up_shexp") ||
                       strstr(name, "blk.60.ffn_up_shexp");
            if (!CHECK_MSG((p.homes[i] == HOME_GPU) == gpu, "%s", name))
                break;
        }
        placement_free(&p);
        regfree(&rules[0].name);
        regfree(&rules[1].name);

        check_case("experts in VRAM: a number, a size, a share; none");
        w = placement_wishes_default();
        w.gpu_experts = 7;
        CHECK(placement_make(&p, &m, &r, &w, &err) && p.fits && p.expert_slots == 7);
        placement_free(&p);
        w.gpu_experts = 0;
        CHECK(placement_make(&p, &m, &r, &w, &err) && p.fits && p.expert_slots == 0);
        placement_free(&p);
        w.gpu_experts = PLACE_AUTO;
        w.gpu_experts_share = 0.125;
        CHECK(placement_make(&p, &m, &r, &w, &err) && p.fits && p.expert_slots == 32);
        placement_free(&p);
        w.gpu_experts_share = 0.5;
        CHECK(placement_make(&p, &m, &r, &w, &err) && !p.fits && p.short_home == HOME_GPU);
        CHECK(!placement_check(&p, &err) && err.code == ERR_FIT);
        placement_free(&p);
    }
    model_close(&m);
    unlink(path);
}

static void test_refusals(void)
{
    struct model m = { 0 };
    struct error err = { 0 };
    struct placement p;
    struct rates none = machine_of(64, 0), small = machine_of(720, 0);
    check_case("without a GPU, wishes that need one are refused: code 5");
    if (!open_published(&m, &files[2]))
        return;
    for (int i = 0; i < 4; i++) {
        struct placement_wishes w = placement_wishes_default();
        struct placement_rule rule = { .on_gpu = true };
        regcomp(&rule.name, "attn", REG_NOSUB);
        w.gpu_layers = i == 0 ? PLACE_ALL : PLACE_AUTO;
        w.gpu_experts_share = i == 1 ? 0.1 : -1;
        w.gpu_experts_bytes = i == 2 ? GIB : 0;
        w.rules = i == 3 ? &rule : NULL;
        w.n_rules = i == 3;
        error_clear(&err);
        CHECK(!placement_make(&p, &m, &none, &w, &err));
        CHECK_INT(err.code, ERR_DEVICE);
        regfree(&rule.name);
    }

    check_case("experts of some layers with the CPU: all of them are, without a GPU");
    struct placement_wishes few = placement_wishes_default();
    few.cpu_moe = 3;
    error_clear(&err);
    CHECK(placement_make(&p, &m, &small, &few, &err) && p.bytes[PART_ROUTED][HOME_GPU] == 0);
    CHECK(p.fits);
    placement_free(&p);

    check_case("weights larger than memory do not fit, unless the disk is accepted");
    struct placement_wishes w = placement_wishes_default();
    struct forecast f;
    error_clear(&err);
    CHECK(placement_make(&p, &m, &none, &w, &err) && !p.fits && p.short_home == HOME_RAM);
    CHECK(!placement_check(&p, &err));
    CHECK_INT(err.code, ERR_FIT);
    CHECK_MSG(strstr(err.text, "does not fit: 66"), "%s", err.text);
    placement_free(&p);
    w.force = true;
    error_clear(&err);
    CHECK(placement_make(&p, &m, &none, &w, &err) && p.fits && !p.copied);
    forecast_make(&f, &m, &p, &none, 0, 512);
    CHECK(f.token.disk > 0 && !strcmp(f.bound_first, "the disk"));
    CHECK(p.ram_used <= none.ram_bytes / 4);
    placement_free(&p);

    check_case("a context that is too long names the largest that fits, which fits");
    w = placement_wishes_default();
    w.n_ctx = 16 << 20;
    CHECK(placement_make(&p, &m, &small, &w, &err) && !p.fits);
    int64_t largest = p.fitting_ctx;
    CHECK_MSG(largest > 100000 && largest < w.n_ctx, "%lld", (long long)largest);
    placement_free(&p);
    w.n_ctx = largest;
    CHECK(placement_make(&p, &m, &small, &w, &err) && p.fits);
    placement_free(&p);
    w.n_ctx = largest + 4096;
    CHECK(placement_make(&p, &m, &small, &w, &err) && !p.fits);
    placement_free(&p);
    w.n_ctx = (1 << 24) + 1;
    CHECK(!placement_make(&p, &m, &small, &w, &err) && err.code == ERR_USAGE);
    model_close(&m);
}

/* ---- forecasts ---- */

static void test_forecast(void)
{
    struct model m = { 0 };
    struct error err = { 0 };
    struct placement p;
    struct placement_wishes w = placement_wishes_default();
    struct rates r = machine_of(1200, 0);
    struct forecast f, g;
    check_case("hit rates pass through the published points and never fall");
    double before = 0;
    for (int i = 0; i <= 100; i++) {
        double hits = forecast_hit_rate(i / 100.0);
        CHECK(hits >= before && hits <= 1 && hits >= i / 100.0 - 1e-9);
        before = hits;
    }
    CHECK(forecast_hit_rate(0) == 0 && forecast_hit_rate(1) == 1);
    CHECK(forecast_hit_rate(0.096) > 0.5 && forecast_hit_rate(0.096) < 0.6);

    check_case("decode is bytes by bandwidth");
    if (!open_published(&m, &files[2]) || !CHECK(placement_make(&p, &m, &r, &w, &err)))
        return;
    forecast_make(&f, &m, &p, &r, 0, 512);
    double bound = 300e9 / (double)m.bytes_per_token;
    CHECK_MSG(f.serial_tok_s > 0.98 * bound && f.serial_tok_s < 1.02 * bound, "%g, wanted %g",
              f.serial_tok_s, bound);
    r.dram_gb_s /= 2;
    for (int t = 0; t < N_TENSOR_TYPES; t++)
        r.dot_gb_s[t] /= 2;
    forecast_make(&g, &m, &p, &r, 0, 512);
    CHECK_MSG(g.decode_tok_s.mid > 0.49 * f.decode_tok_s.mid &&
              g.decode_tok_s.mid < 0.52 * f.decode_tok_s.mid, "%g of %g", g.decode_tok_s.mid,
              f.decode_tok_s.mid);
    forecast_make(&g, &m, &p, &r, 32768, 512);
    CHECK(g.token.attention > 0);

    check_case("joules are watts by speed");
    r.busy_w = 100;
    forecast_make(&g, &m, &p, &r, 0, 512);
    CHECK(g.joules > 0.99 * 100 / g.decode_tok_s.mid && g.joules < 1.01 * 100 / g.decode_tok_s.mid);
    r.busy_gpu_w = 250; /* with a card its watts count, and only those */
    CHECK(p.gpu_layers == 0 && g.watts == 100);
    placement_free(&p);
    struct rates card = r;
    card.vram_bytes = 24 * GIB;
    CHECK(placement_make(&p, &m, &card, &w, &err) && p.gpu_layers > 0);
    forecast_make(&g, &m, &p, &card, 0, 512);
    CHECK(g.watts == 250 && g.joules > 0.99 * 250 / g.decode_tok_s.mid);
    placement_free(&p);

    check_case("the CPU alone where only it keeps to the joules");
    struct goals thrifty = { .max_joules = 24 };
    bool kept;
    card.busy_w = 50;
    card.busy_gpu_w = 5000;
    w.n_ctx = 1024;
    CHECK(forecast_choose(&p, &f, &m, &card, &w, &thrifty, &kept, &err) && kept);
    CHECK(p.gpu_layers == 0 && f.joules > 0 && f.joules <= thrifty.max_joules);
    placement_free(&p);
    card.busy_gpu_w = 50;
    CHECK(forecast_choose(&p, &f, &m, &card, &w, &thrifty, &kept, &err) && kept && p.gpu_layers > 0);
    placement_free(&p);
    w.gpu_layers = PLACE_ALL;
    card.busy_gpu_w = 5000;
    CHECK(forecast_choose(&p, &f, &m, &card, &w, &thrifty, &kept, &err) && !kept && p.gpu_layers > 0);
    placement_free(&p);
    w = placement_wishes_default();

    check_case("goals shorten the context until it is fast enough when full");
    struct goals goals = { .min_tok_s = 0 };
    bool met;
    CHECK(forecast_choose(&p, &f, &m, &r, &w, &goals, &met, &err) && met);
    int64_t usual = p.n_ctx;
    placement_free(&p);
    struct placement_wishes half = w;
    half.n_ctx = usual / 2;
    CHECK(placement_make(&p, &m, &r, &half, &err));
    forecast_make(&g, &m, &p, &r, half.n_ctx, 512);
    placement_free(&p);
    goals.max_joules = 1e6; /* nobody knows them: not met, however many are allowed */
    r.busy_w = 0;
    CHECK(forecast_choose(&p, &f, &m, &r, &w, &goals, &met, &err) && !met);
    placement_free(&p);
    r.busy_w = 100;
    CHECK(forecast_choose(&p, &f, &m, &r, &w, &goals, &met, &err) && met);
    placement_free(&p);
    goals.max_joules = 0;
    goals.min_tok_s = g.decode_tok_s.mid;
    CHECK(forecast_choose(&p, &f, &m, &r, &w, &goals, &met, &err) && met);
    CHECK_INT(p.n_ctx, usual / 2);
    placement_free(&p);
    goals.min_tok_s = 1e6;
    CHECK(forecast_choose(&p, &f, &m, &r, &w, &goals, &met, &err) && !met);
    placement_free(&p);
    model_close(&m);
}

/* ---- caches of sparse attention ---- */

#define INDEX_KEY (128 + 4) /* a key of the indexer: bytes and a scale */

/* Sparse attention's caches, all layers together: halves, and the indexer's keys in bytes. V3.2 keeps
 * 576 elements and a key in each of 61 layers. V4: blocks of 4 positions (a row of 512 elements, a key)
 * in `csa` layers and of 128 in `hca`; and whatever the context, windows and the compressors' values and
 * scores, each with the 8 positions that a session may take back. */
static void test_sparse_caches(void)
{
    const struct {
        struct published file;
        uint64_t latent, csa, hca, windows; /* layers */
    } shapes[] = {
        { { "v3.2-cache", "--like v3.2 --type q4_k", 1, 0, 0, 0, 0, { { 0 } } }, 61, 0, 0, 0 },
        { { "v4-flash-cache", "--like v4-flash --type native", 1, 0, 0, 0, 0, { { 0 } } }, 0, 21, 20, 43 },
        { { "v4-pro-cache", "--like v4-pro --type native", 1, 0, 0, 0, 0, { { 0 } } }, 0, 30, 31, 61 },
    };
    struct placement_wishes w = placement_wishes_default();
    struct rates r = machine_of(2048, 0);
    struct error err = { 0 };
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        uint64_t latent = shapes[i].latent, csa = shapes[i].csa, hca = shapes[i].hca;
        uint64_t per_token = latent * (1152 + INDEX_KEY) + csa * (1024 + INDEX_KEY) / 4 + hca * 1024 / 128;
        uint64_t always = shapes[i].windows * (128 + 8) * 1024 +
                          csa * (2 * 4 + 8) * (2 * 1024 + 2 * 256) * 4 + hca * (128 + 8) * (2 * 512) * 4;
        char path[256];
        struct model m = { 0 };
        check_case("%s: %d bytes per token", shapes[i].file.name, (int)per_token);
        if (open_published(&m, &shapes[i].file)) {
            for (w.n_ctx = 4096; w.n_ctx <= 131072; w.n_ctx *= 32) {
                struct placement p;
                CHECK_MSG(placement_make(&p, &m, &r, &w, &err) && p.fits, "%s", err.text);
                CHECK_INT(p.bytes[PART_CACHE][HOME_RAM], per_token * (uint64_t)w.n_ctx + always);
                placement_free(&p);
            }
            model_close(&m);
        }
        file_path(path, &shapes[i].file);
        unlink(path);
    }
}

int main(void)
{
    test_published();
    test_budgets();
    test_expert_choices();
    test_refusals();
    test_forecast();
    remove_files();
    test_sparse_caches();
    return check_finish();
}
