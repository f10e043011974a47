/* tandem quantize IN OUT TYPE: the same model in fewer bits.
 *
 * Plan (tools/quantize_plan.c), then fill (tools/transcode.c), then finish: the output has a hidden
 * name until it is whole. What is not finished can be taken up again with --resume. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "src/cli/command.h"
#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "tools/quantize_plan.h"

typedef unsigned long long ull;

/* ---- arguments ---- */

struct job {
    const char *in, *out, *type;
    int threads;
};

static bool is_number(const char *text)
{
    return *text && text[strspn(text, "0123456789")] == 0;
}

/* IN OUT TYPE, and the number of threads behind it as other programs take it. With --recipe the
 * type may be missing. */
static bool read_arguments(struct job *job, const struct options *o, struct error *err)
{
    int n = o->n_positional;
    job->threads = (int)max_of(o->threads, 0);
    if (n > 2 && is_number(o->positional[n - 1]) && strlen(o->positional[n - 1]) < 6) {
        job->threads = atoi(o->positional[--n]);
        if (job->threads > 4096)
            return fail(err, ERR_USAGE, "%d threads, at most 4096", job->threads);
    }
    if (n > 3)
        return fail(err, ERR_USAGE, "unexpected argument \"%s\"", o->positional[3]);
    if (n < 2 || (n == 2 && !o->recipe))
        return fail(err, ERR_USAGE, "wants tandem quantize IN OUT TYPE; types: %s", recipe_names());
    const char *configured = options_configured_model(o, o->positional[0]);
    job->in = configured ? configured : o->positional[0];
    job->out = o->positional[1];
    job->type = n > 2 ? o->positional[2] : NULL;
    return true;
}

/* ---- the place of the output ---- */

static bool same_file(const struct stat *st, const struct gguf *g)
{
    for (int i = 0; i < g->n_shards; i++)
        if (st->st_dev == g->shards[i].device && st->st_ino == g->shards[i].inode)
            return true;
    return false;
}

/* May this name be used? Not when it is an input, and not when it is taken, unless forced. */
static bool check_target(const char *path, const struct gguf *g, bool force, struct error *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return errno == ENOENT || fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return fail(err, ERR_USAGE, "%s is a directory", path);
    if (!S_ISREG(st.st_mode))
        return fail(err, ERR_USAGE, "%s exists and is not a regular file", path);
    if (same_file(&st, g))
        return fail(err, ERR_USAGE, "%s is the input: give the output another name", path);
    return force || fail(err, ERR_USAGE, "%s exists; --force replaces it", path);
}

/* Is `name` a part BASE-00001-of-00002.gguf? */
static bool is_part_of(const char *name, const char *base, size_t base_len)
{
    unsigned no, count;
    int end = 0;
    return strncmp(name, base, base_len) == 0 &&
           sscanf(name + base_len, "-%5u-of-%5u.gguf%n", &no, &count, &end) == 2 && end &&
           !name[base_len + (size_t)end];
}

/* The parts of an older set of the same name. */
static bool check_parts(const char *out, const struct gguf *g, bool force, struct error *err)
{
    char path[PATH_SIZE * 2];
    const char *slash = strrchr(out, '/'), *base = slash ? slash + 1 : out;
    size_t base_len = strlen(base);
    if (base_len > 5 && strcmp(base + base_len - 5, ".gguf") == 0)
        base_len -= 5;
    snprintf(path, sizeof path, "%.*s", slash ? (int)(slash - out) + 1 : 1, slash ? out : ".");
    DIR *dir = opendir(path);
    if (!dir)
        return fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(dir)) != NULL;)
        if (is_part_of(e->d_name, base, base_len)) {
            snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash - out) + 1 : 0, out,
                     e->d_name);
            ok = check_target(path, g, force, err);
        }
    closedir(dir);
    return ok;
}

/* Bytes that other users may still write where `out` will be; those of an unfinished file of ours
 * count as free. */
static bool check_space(const char *out, uint64_t wanted, struct error *err)
{
    char dir[PATH_SIZE], free_text[32], wanted_text[32];
    struct statvfs vfs;
    const char *slash = strrchr(out, '/');
    size_t len = slash ? (size_t)(slash - out) + 1 : 0;
    if (len >= sizeof dir)
        return fail(err, ERR_USAGE, "%s: the name is too long", out);
    snprintf(dir, sizeof dir, "%.*s", len ? (int)len : 1, len ? out : ".");
    if (statvfs(dir, &vfs) != 0)
        return fail(err, ERR_RUN, "%s: %s", dir, strerror(errno));
    double room = (double)vfs.f_bavail * (double)vfs.f_frsize;
    return (double)wanted <= room ||
           fail(err, ERR_RUN, "%s: needs %s, %s are free", out,
                human_bytes((double)wanted, wanted_text, sizeof wanted_text),
                human_bytes(room, free_text, sizeof free_text));
}

static bool check_output(const struct job *job, const struct options *o,
                         const struct quantize_plan *p, struct error *err)
{
    return check_target(job->out, &p->gguf, o->force, err) &&
           (!o->split_max_bytes || check_parts(job->out, &p->gguf, o->force, err)) &&
           (o->resume || check_space(job->out, p->bytes_after, err));
}

/* ---- the work ---- */

/* Hidden file and journal: those of an earlier run with --resume, else new ones. */
static bool begin(struct gguf_writer *w, struct journal *j, const char *out, const char *plan,
                  bool resume, struct error *err)
{
    bool found = false, taken = false;
    if (resume && !journal_resume(j, out, plan, &found, err))
        return false;
    if (!found && !journal_create(j, out, plan, err))
        return false;
    bool ok = found ? gguf_writer_resume(w, out, &taken, err) : gguf_writer_begin(w, out, err);
    if (ok && found && !taken) { /* what the journal speaks of is gone */
        journal_close(j);
        ok = journal_create(j, out, plan, err);
    }
    if (ok && resume && !taken)
        note("nothing to go on with: beginning anew");
    if (!ok)
        journal_remove(j);
    return ok;
}

static void show_progress(void *ctx, uint64_t done, uint64_t total)
{
    progress_update(ctx, (double)done, (double)total);
}

static bool fill(struct quantize_plan *p, const struct options *o, struct pool *pool,
                 struct gguf_writer *w, struct journal *j, struct transcode *t, struct error *err)
{
    struct progress progress;
    *t = (struct transcode){
        .writer = w, .pool = pool, .tensors = p->tensors, .n_tensors = (size_t)p->gguf.n_tensors,
        .replace_nonfinite = o->replace_nonfinite, .journal = j,
        .progress = show_progress, .progress_ctx = &progress, .cancel = signals_cancel_flag(),
    };
    progress_begin(&progress, "quantizing", NULL);
    bool ok = transcode_run(t, err) && gguf_unchanged(&p->gguf, err);
    progress_end(&progress);
    return ok;
}

static void report(const struct job *job, const struct quantize_plan *p, const struct transcode *t,
                   double seconds)
{
    char size[32], rate[32], peak[32];
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    if (t->n_replaced)
        note("%llu values were not finite and were replaced", (ull)t->n_replaced);
    if (t->n_taken_up)
        note("%llu of %llu pieces were there already", (ull)t->n_taken_up, (ull)t->n_chunks);
    note("%s: %s, %.2f bits per weight, %.1f s, %s/s read, peak memory %s", job->out,
         human_bytes((double)p->bytes_after, size, sizeof size),
         8.0 * (double)p->bytes_after / p->weights, seconds,
         human_bytes((double)p->bytes_before / max_of(seconds, 1e-3), rate, sizeof rate),
         human_bytes(1024.0 * (double)used.ru_maxrss, peak, sizeof peak));
}

/* Unfinished work is kept where going on makes sense: after an interruption or a failure of the
 * system, not when the same thing would fail again. */
static bool worth_keeping(const struct error *err)
{
    return err->code == ERR_INTERRUPTED || err->code == ERR_RUN;
}

static bool quantize(const struct job *job, const struct options *o, struct quantize_plan *p,
                     struct error *err)
{
    struct gguf_writer w = { 0 };
    struct journal j = { 0 };
    struct buf plan = { 0 };
    struct pool *pool = NULL;
    struct transcode t = { 0 };
    struct error why = { 0 };
    double start = now_s();
    gguf_writer_split(&w, 0, (uint64_t)o->split_max_bytes, 0);
    bool ok = quantize_plan_announce(p, &w, &why) && quantize_plan_describe(p, o, &plan, &why) &&
              pool_open(&pool, job->threads, &why) &&
              begin(&w, &j, job->out, buf_str(&plan).data, o->resume, &why);
    if (ok) {
        ok = fill(p, o, pool, &w, &j, &t, &why) && gguf_writer_finish(&w, &why);
        if (!ok && worth_keeping(&why)) {
            gguf_writer_keep(&w);
            journal_close(&j);
            note("stopped; the same command with --resume goes on");
        }
        journal_remove(&j);
    }
    if (ok)
        report(job, p, &t, now_s() - start);
    else
        error_set(err, why.code, why.file, why.line, "%s", why.text);
    gguf_writer_release(&w);
    pool_close(pool);
    buf_release(&plan);
    return ok;
}

static bool print_plan(const struct options *o, const struct quantize_plan *p, struct error *err)
{
    struct buf out = { 0 };
    quantize_plan_table(p, o->verbose > 0, &out);
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

bool cmd_quantize(struct options *o, struct error *err)
{
    struct job job = { 0 };
    struct quantize_plan p = { 0 };
    bool ok = read_arguments(&job, o, err) &&
              quantize_plan_open(&p, o, job.in, job.type, err);
    if (ok && o->dry_run)
        ok = print_plan(o, &p, err);
    else if (ok)
        ok = check_output(&job, o, &p, err) && quantize(&job, o, &p, err);
    quantize_plan_close(&p);
    return ok;
}
