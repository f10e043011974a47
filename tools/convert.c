/* tandem convert: a Hugging Face checkpoint becomes a GGUF file.
 *
 *     folder -> checkpoint (safetensors.c) -> config (hf_config.c) -> plan (convert_plan.c)
 *            -> metadata and vocabulary (hf_vocab.c) -> file (gguf_write.c, convert_fill.c)
 *
 * Everything that can be wrong with names, shapes, keys, vocabulary or the place of the output is
 * found before the output exists. The file holds no path and no time: equal input gives equal
 * bytes. */
#include "src/cli/command.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "tools/convert_fill.h"
#include "tools/hf_vocab.h"

#define PATH_BYTES 4096

/* ---- where the file goes ---- */

static bool is_input(const struct checkpoint *c, const struct stat *st)
{
    for (int i = 0; i < c->n_files; i++)
        if (c->files[i].device == st->st_dev && c->files[i].inode == st->st_ino)
            return true;
    return false;
}

static bool check_target(const struct checkpoint *c, const char *path, bool force,
                         struct error *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return errno == ENOENT || fail(err, ERR_USAGE, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return fail(err, ERR_USAGE, "%s: exists and is not a regular file", path);
    if (is_input(c, &st))
        return fail(err, ERR_USAGE, "%s: is part of the checkpoint", path);
    return force || fail(err, ERR_USAGE, "%s: exists (--force replaces it)", path);
}

/* Folder of the output: it must be there and writable, before hours of work. */
static bool check_folder(const char *path, uint64_t bytes, uint64_t *free_bytes, struct error *err)
{
    char folder[PATH_BYTES], size[32], room[32];
    struct statvfs fs;
    const char *slash = strrchr(path, '/');
    if (strlen(path) >= sizeof folder)
        return fail(err, ERR_USAGE, "the name of the output is too long");
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)max_of(slash - path, 1) : 1,
             slash ? path : ".");
    if (access(folder, W_OK | X_OK) != 0 || statvfs(folder, &fs) != 0)
        return fail(err, ERR_USAGE, "%s: cannot be written: %s", folder, strerror(errno));
    *free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return *free_bytes >= bytes ||
           fail(err, ERR_RUN, "%s: %s are needed, %s are free", folder,
                human_bytes((double)bytes, size, sizeof size),
                human_bytes((double)*free_bytes, room, sizeof room));
}

/* ---- general metadata ---- */

/* "671B", "2.5M": at least two digits. */
static void count_text(char text[32], double n)
{
    static const struct { double unit; const char *name; } units[] = {
        { 1e12, "T" }, { 1e9, "B" }, { 1e6, "M" }, { 1e3, "K" },
    };
    size_t i = 0;
    while (i + 1 < ARRAY_LEN(units) && n <= units[i].unit)
        i++;
    double scaled = n / units[i].unit;
    int digits = nearbyint(scaled) == 0 ? 2 : nearbyint(scaled) < 10 ? 1 : 0;
    snprintf(text, 32, "%.*f%s", digits, scaled, units[i].name);
}

/* The size as other converters write it: all parameters, or experts times what one of them and the
 * shared parts have. */
static bool write_size_label(const struct plan *p, struct gguf_writer *w, struct error *err)
{
    char text[32], label[64] = "";
    int n = p->config->params.n_routed;
    double trunk = (double)(p->n_elements - p->routed_elements);
    count_text(text, n ? trunk + (double)p->routed_elements / n : (double)p->n_elements);
    if (n)
        snprintf(label, sizeof label, "%dx", n);
    strcat(label, text);
    return gguf_writer_add_str(w, "general.size_label", label, err);
}

/* The number that stands for the type of most elements. */
static uint32_t file_type(const struct plan *p)
{
    static const struct { enum tensor_type type; uint32_t number; } numbers[] = {
        { TYPE_F32, 0 }, { TYPE_F16, 1 }, { TYPE_Q8_0, 7 }, { TYPE_BF16, 32 },
    };
    uint64_t sums[ARRAY_LEN(numbers)] = { 0 };
    size_t best = 0;
    for (size_t i = 0; i < p->n_tensors; i++) {
        const struct plan_tensor *t = &p->tensors[i];
        for (size_t k = 0; k < ARRAY_LEN(numbers); k++)
            if (numbers[k].type == t->type)
                sums[k] += t->ne[0] * t->ne[1] * t->ne[2];
    }
    for (size_t k = 1; k < ARRAY_LEN(numbers); k++)
        if (sums[k] > sums[best])
            best = k;
    return numbers[best].number;
}

/* The folder's own name, also for "." and paths that end with a slash. */
static bool write_name(const char *folder, const char *wish, struct gguf_writer *w,
                       struct error *err)
{
    char *whole = wish ? NULL : realpath(folder, NULL); /* from the C library: freed below */
    const char *slash = whole ? strrchr(whole, '/') : NULL;
    const char *name = wish ? wish : slash ? slash + 1 : "";
    bool ok = gguf_writer_add_str(w, "general.name", *name ? name : "model", err);
    free(whole);
    return ok;
}

static bool write_metadata(const struct plan *p, const struct options *o, struct gguf_writer *w,
                           struct error *err)
{
    const struct hf_config *c = p->config;
    return gguf_writer_add_str(w, "general.architecture", c->arch->name, err) &&
           gguf_writer_add_str(w, "general.type", "model", err) &&
           write_name(p->checkpoint->folder, o->name, w, err) && write_size_label(p, w, err) &&
           gguf_writer_add_u32(w, "general.file_type", file_type(p), err) &&
           gguf_writer_add_u32(w, "general.quantization_version", 2, err) &&
           hf_config_write(c, w, err) &&
           hf_vocab_write(p->checkpoint, c->json, c->params.n_vocab, o->pre, w, err);
}

static bool announce_tensors(const struct plan *p, struct gguf_writer *w, struct error *err)
{
    for (size_t i = 0; i < p->n_tensors; i++) {
        const struct plan_tensor *t = &p->tensors[i];
        if (!gguf_writer_add_tensor(w, t->name, t->type, t->n_dims, t->ne, err))
            return false;
    }
    return true;
}

/* ---- reports ---- */

static bool print_tensor(const struct plan_tensor *t, struct error *err)
{
    char line[512], shape[96], source[300];
    size_t n = 0;
    for (int d = 0; d < t->n_dims; d++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, d ? "x%llu" : "%llu",
                              (unsigned long long)t->ne[d]);
    if (t->how == HOW_FREQS)
        snprintf(source, sizeof source, "computed");
    else
        snprintf(source, sizeof source, "%s %.200s%s", t->sources[0]->dtype_name,
                 t->sources[0]->name, t->how == HOW_ROWS && t->n_matrices > 1 ? " …" : "");
    snprintf(line, sizeof line, "%-34s %-5s %-16s  %s\n", t->name, quant_traits(t->type)->name,
             shape,
             source);
    return out_puts(line, err);
}

static bool print_plan(const struct plan *p, struct error *err)
{
    for (size_t i = 0; i < p->n_tensors; i++)
        if (!print_tensor(&p->tensors[i], err))
            return false;
    return true;
}

static void note_plan(const struct plan *p, uint64_t free_bytes, int n_threads)
{
    char count[32], source[32], size[32], room[32], memory[32];
    count_text(count, (double)p->n_elements);
    note("%d file%s, %zu tensors of %s, %s → %s (%s free), %s of working memory",
         p->checkpoint->n_files, p->checkpoint->n_files == 1 ? "" : "s", p->n_tensors, count,
         human_bytes((double)p->source_bytes, source, sizeof source),
         human_bytes((double)p->file_bytes, size, sizeof size),
         human_bytes((double)free_bytes, room, sizeof room),
         human_bytes((double)convert_memory(p, n_threads), memory, sizeof memory));
    if (p->n_fallbacks)
        note("%d tensors have rows that do not divide into blocks of the type: they become F16",
             p->n_fallbacks);
}

/* ---- the command ---- */

struct ticker {
    struct progress progress;
    uint64_t total_bytes;
};

static bool on_tick(void *ctx, uint64_t done_bytes)
{
    struct ticker *t = ctx;
    progress_update(&t->progress, (double)done_bytes, (double)t->total_bytes);
    return !signals_cancelled();
}

/* With several files the names are known once their number is. */
static bool check_shards(const struct checkpoint *c, const struct gguf_writer *w, bool force,
                         struct error *err)
{
    for (int i = 0; i < w->n_shards; i++)
        if (!check_target(c, gguf_writer_path(w, i), force, err))
            return false;
    return true;
}

static bool write_file(const struct plan *p, struct gguf_writer *w, const struct options *o,
                       int n_threads, struct error *err)
{
    struct ticker t = { .total_bytes = p->file_bytes };
    double start = now_s();
    char size[32], rate[32];
    if (!gguf_writer_begin(w, o->output, err) || !check_shards(p->checkpoint, w, o->force, err))
        return false;
    progress_begin(&t.progress, "converting", NULL);
    bool ok = convert_fill(p, w, n_threads, on_tick, &t, err);
    progress_end(&t.progress);
    if (!ok || !gguf_writer_finish(w, err))
        return false;
    double seconds = max_of(now_s() - start, 1e-3), bytes = (double)p->file_bytes;
    note("%s in %.1f s (%s/s): %s%s", human_bytes(bytes, size, sizeof size), seconds,
         human_bytes(bytes / seconds, rate, sizeof rate), gguf_writer_path(w, 0),
         w->n_shards > 1 ? " and the following" : "");
    return true;
}

static bool convert(struct checkpoint *c, const struct json *config_json, const struct options *o,
                    struct error *err)
{
    static const int types[] = { -1, TYPE_F32, TYPE_F16, TYPE_BF16, TYPE_Q8_0 };
    struct hf_config config;
    struct plan plan = { 0 };
    struct gguf_writer writer = { 0 };
    uint64_t free_bytes = 0;
    int n_threads = o->threads > 0 ? (int)o->threads : cpu_usable_cores();
    bool ok = hf_config_read(&config, config_json, err) &&
              plan_make(&plan, c, &config, types[o->convert_type], !o->no_mtp, err) &&
              write_metadata(&plan, o, &writer, err) && announce_tensors(&plan, &writer, err);
    if (ok && o->output)
        ok = check_target(c, o->output, o->force || o->split_max_bytes > 0, err) &&
             check_folder(o->output, o->dry_run ? 0 : plan.file_bytes, &free_bytes, err);
    if (ok)
        note_plan(&plan, free_bytes, n_threads);
    if (ok && o->split_max_bytes > 0)
        gguf_writer_split(&writer, 0, (uint64_t)o->split_max_bytes, 0);
    ok = ok && (o->dry_run ? print_plan(&plan, err)
                           : write_file(&plan, &writer, o, n_threads, err));
    gguf_writer_release(&writer);
    plan_release(&plan);
    return ok;
}

bool cmd_convert(struct options *o, struct error *err)
{
    struct checkpoint c = { 0 };
    if (o->n_positional != 1)
        return fail(err, ERR_USAGE, "convert wants one folder: tandem convert DIR -o OUT.gguf");
    if (!o->output && !o->dry_run)
        return fail(err, ERR_USAGE, "convert wants -o OUT.gguf (or --dry-run)");
    if (!js_available(err) || !checkpoint_open(&c, o->positional[0], err))
        return false;
    struct error why = { 0 };
    struct json *config = checkpoint_json(&c, "config.json", &why);
    bool ok = !why.code || fail(err, why.code, "%s", why.text);
    if (ok && !config)
        ok = fail(err, ERR_FILE, "%s/config.json: missing", c.folder);
    ok = ok && convert(&c, config, o, err);
    js_free(config);
    checkpoint_close(&c);
    return ok;
}
