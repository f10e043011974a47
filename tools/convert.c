/* tandem convert: a Hugging Face checkpoint becomes a GGUF file.
 *
 *     folder -> checkpoint (safetensors.c) -> config (hf_config.c) -> plan (convert_plan.c)
 *            -> metadata and vocabulary (hf_keys.c, hf_vocab.c) -> file (output.c)
 *
 * Everything that can be wrong with names, shapes, keys, vocabulary or the place of the output is
 * found before the output exists. The file holds no path and no time: equal input gives equal
 * bytes. */
#include "src/cli/command.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "src/base/mem.h"
#include "src/cli/term.h"
#include "src/format/quant.h"
#include "tools/canary.h"
#include "tools/convert.h"
#include "tools/convert_plan.h"
#include "tools/estimate.h"
#include "tools/hf_vocab.h"
#include "tools/mixture.h"

typedef unsigned long long ull;

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

/* The number that stands for the type of most elements, when no mixture was asked for. */
static uint32_t native_file_type(const struct plan *p)
{
    static const struct { enum tensor_type type; uint32_t number; } numbers[] = {
        { TYPE_F32, FILE_F32 }, { TYPE_F16, FILE_F16 }, { TYPE_Q8_0, FILE_Q8_0 },
        { TYPE_BF16, FILE_BF16 }, { TYPE_MXFP4, FILE_MXFP4_MOE },
    };
    uint64_t sums[ARRAY_LEN(numbers)] = { 0 };
    size_t best = 0;
    for (size_t i = 0; i < p->n_tensors; i++) {
        const struct recipe_tensor *t = &p->types.tensors[i];
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
           gguf_writer_add_u32(w, "general.file_type", native_file_type(p), err) &&
           gguf_writer_add_u32(w, "general.quantization_version", 2, err) &&
           type_plan_write(&p->types, w, err) && hf_config_write(c, w, err) &&
           hf_vocab_write(p->checkpoint, c->json, c->params.n_vocab, o->pre, w, err);
}

static bool announce(const struct plan *p, const struct options *o, struct gguf_writer *w,
                     struct error *err)
{
    if (!write_metadata(p, o, w, err))
        return false;
    for (size_t i = 0; i < p->n_tensors; i++) {
        const struct recipe_tensor *t = &p->types.tensors[i];
        if (!gguf_writer_add_tensor(w, t->name, t->type, t->n_dims, t->ne, err))
            return false;
    }
    return true;
}

/* ---- reports ---- */

/* Every tensor: type, shape, where it comes from. */
static void add_tensors(const struct plan *p, struct buf *out)
{
    for (size_t i = 0; i < p->n_tensors; i++) {
        const struct plan_tensor *t = &p->tensors[i];
        char shape[96];
        size_t n = 0;
        for (int d = 0; d < t->n_dims; d++)
            n += (size_t)snprintf(shape + n, sizeof shape - n, d ? "x%llu" : "%llu",
                                  (ull)t->ne[d]);
        buf_printf(out, "%-34s %-5s %-16s  ", t->name,
                   quant_traits(p->types.tensors[i].type)->name, shape);
        if (t->n_sources)
            buf_printf(out, "%s %s%s\n", t->sources[0]->dtype_name, t->sources[0]->name,
                       t->n_sources > 1 ? " …" : "");
        else
            buf_puts(out, "computed\n");
    }
    buf_puts(out, "\n");
}

static bool print_plan(const struct plan *p, const struct options *o, int n_threads,
                       struct error *err)
{
    struct buf out = { 0 };
    if (o->verbose > 0)
        add_tensors(p, &out);
    type_plan_table(&p->types, false, &out);
    bool ok = estimate_describe(&p->types, n_threads, &out, err) &&
              out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

/* Room where the output will be, " (80 GiB free)", or nothing. */
static const char *room_text(const char *output, char text[64])
{
    char folder[4096], room[32];
    struct statvfs fs;
    const char *slash = output ? strrchr(output, '/') : NULL;
    text[0] = 0;
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)max_of(slash - output, 1) : 1,
             slash ? output : ".");
    if (output && statvfs(folder, &fs) == 0)
        snprintf(text, 64, " (%s free)",
                 human_bytes((double)fs.f_bavail * (double)fs.f_frsize, room, sizeof room));
    return text;
}

static void note_plan(const struct plan *p, const struct options *o, int n_threads)
{
    char count[32], source[32], size[32], room[64], memory[32];
    struct transcode t = { .tensors = p->jobs, .n_tensors = p->n_tensors };
    count_text(count, (double)p->n_elements);
    note("%d file%s, %zu tensors of %s, %s → %s%s, %s of working memory",
         p->checkpoint->n_files, p->checkpoint->n_files == 1 ? "" : "s", p->n_tensors, count,
         human_bytes((double)p->types.bytes_before, source, sizeof source),
         human_bytes((double)p->types.bytes_after, size, sizeof size), room_text(o->output, room),
         human_bytes((double)transcode_memory(&t, n_threads), memory, sizeof memory));
    if (p->n_unfit)
        note("%d tensors have rows that do not divide into blocks of 8 bits: F16 where no other "
             "type was asked for", p->n_unfit);
}

/* ---- the command ---- */

static bool is_input(const void *ctx, dev_t device, ino_t inode)
{
    const struct checkpoint *c = ctx;
    for (int i = 0; i < c->n_files; i++)
        if (c->files[i].device == device && c->files[i].inode == inode)
            return true;
    return false;
}

static bool unchanged(const void *ctx, struct error *err)
{
    return checkpoint_unchanged(ctx, err);
}

/* The small files that shape the metadata. */
static bool describe_texts(const struct checkpoint *c, struct buf *text, struct error *err)
{
    static const char *const names[] = {
        "config.json", "tokenizer.json", "tokenizer_config.json", "tiktoken.model",
        "chat_template.jinja", "chat_template.json",
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *bytes;
        size_t n;
        if (!checkpoint_text(c, names[i], &bytes, &n, err))
            return false;
        if (bytes)
            buf_printf(text, "input %s, checksum %08x\n", names[i], (unsigned)crc32c(0, bytes, n));
        mem_free(bytes);
    }
    return true;
}

/* The job in words, for the journal. */
static bool describe(const struct plan *p, const struct options *o, struct buf *text,
                     struct error *err)
{
    const struct checkpoint *c = p->checkpoint;
    buf_printf(text, "name %s, pre-tokenizer %s\n", o->name ? o->name : "of the folder",
               o->pre ? o->pre : "recognised");
    for (int i = 0; i < c->n_files; i++) {
        const struct st_file *f = &c->files[i];
        buf_printf(text, "input %s of %llu bytes, file %llu:%llu changed at %lld\n", f->name,
                   (ull)f->size, (ull)f->device, (ull)f->inode, (long long)f->changed_ns);
    }
    if (!describe_texts(c, text, err))
        return false;
    type_plan_describe(&p->types, o, text);
    return buf_ok(text, err);
}

/* Room for a canary, where the model can be run. */
static bool announce_canary(const struct plan *p, const struct options *o, struct gguf_writer *w,
                            bool *canary, struct error *err)
{
    struct error why = { 0 };
    int64_t n_vocab = p->config->params.n_vocab;
    *canary = !o->canary_off && canary_runs(p->config->arch, n_vocab, &why);
    if (why.code)
        note("no canary: %s", why.text);
    return !*canary || canary_reserve(w, n_vocab, err);
}

static bool write_file(const struct plan *p, struct gguf_writer *w, const struct options *o,
                       int n_threads, const struct output_pace *pace, struct error *err)
{
    struct buf plan = { 0 };
    struct output_job out = {
        .path = o->output, .verb = "converting", .options = o, .threads = n_threads, .writer = w,
        .tensors = p->jobs, .n_tensors = p->n_tensors, .bytes_before = p->types.bytes_before,
        .bytes_after = p->types.bytes_after, .weights = p->types.weights, .is_input = is_input,
        .unchanged = unchanged, .ctx = p->checkpoint,
        .pace = pace ? *pace : (struct output_pace){ 0 },
    };
    bool ok = output_check(&out, err) && announce_canary(p, o, w, &out.canary, err) &&
              describe(p, o, &plan, err) &&
              output_run(&out, buf_str(&plan).data, err);
    buf_release(&plan);
    return ok;
}

static bool convert(struct checkpoint *c, const struct json *config_json, const struct options *o,
                    const struct output_pace *pace, struct error *err)
{
    struct hf_config config;
    struct plan plan = { 0 };
    struct gguf_writer writer = { 0 };
    int n_threads = o->threads > 0 ? (int)o->threads : cpu_usable_cores();
    bool ok = hf_config_read(&config, config_json, err) && plan_make(&plan, c, &config, o, err) &&
              announce(&plan, o, &writer, err);
    if (ok) {
        note_plan(&plan, o, n_threads);
        ok = o->dry_run ? print_plan(&plan, o, n_threads, err)
                        : write_file(&plan, &writer, o, n_threads, pace, err);
    }
    gguf_writer_release(&writer);
    plan_release(&plan);
    return ok;
}

bool convert_folder(const char *folder, const struct options *o, const struct output_pace *pace,
                    struct error *err)
{
    struct checkpoint c = { 0 };
    struct error why = { 0 };
    if (!js_available(err) || !checkpoint_open(&c, folder, err))
        return false;
    struct json *config = checkpoint_json(&c, "config.json", &why);
    bool ok = !why.code || fail(err, why.code, "%s", why.text);
    if (ok && !config)
        ok = fail(err, ERR_FILE, "%s/config.json: missing", c.folder);
    ok = ok && convert(&c, config, o, pace, err);
    js_free(config);
    checkpoint_close(&c);
    return ok;
}

bool cmd_convert(struct options *o, struct error *err)
{
    if (o->n_positional != 1)
        return fail(err, ERR_USAGE, "convert wants one folder: tandem convert DIR -o OUT.gguf");
    if (!o->output && !o->dry_run)
        return fail(err, ERR_USAGE, "convert wants -o OUT.gguf (or --dry-run)");
    return convert_folder(o->positional[0], o, NULL, err);
}
