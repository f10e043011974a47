#include "tools/output.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "tools/canary.h"

typedef unsigned long long ull;

/* ---- the place of the output ---- */

/* May this name be used? Not when it is an input, and not when it is taken, unless forced. */
static bool check_target(const struct output_job *job, const char *path, struct error *err)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return errno == ENOENT || fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return fail(err, ERR_USAGE, "%s is a directory", path);
    if (!S_ISREG(st.st_mode))
        return fail(err, ERR_USAGE, "%s exists and is not a regular file", path);
    if (job->is_input(job->ctx, st.st_dev, st.st_ino))
        return fail(err, ERR_USAGE, "%s is the input: give the output another name", path);
    return job->options->force || job->reworks ||
           fail(err, ERR_USAGE, "%s exists; --force replaces it", path);
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
static bool check_parts(const struct output_job *job, struct error *err)
{
    const char *out = job->path;
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
            ok = check_target(job, path, err);
        }
    closedir(dir);
    return ok;
}

/* Is there room where `out` will be? Not asked over unfinished files of ours, whose bytes would have
 * to count as free: there the reservation tells. */
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

bool output_check(const struct output_job *job, struct error *err)
{
    const struct options *o = job->options;
    return check_target(job, job->path, err) &&
           (!o->split_max_bytes || check_parts(job, err)) &&
           (o->resume || journal_is_left(job->path) ||
            check_space(job->path, job->bytes_after, err));
}

/* ---- the work ---- */

/* Hidden file and journal: those of an earlier run with --resume, else new ones. What an earlier run
 * has finished is thrown away only with --force. */
static bool begin(const struct output_job *job, struct journal *j, const char *plan,
                  struct error *err)
{
    struct gguf_writer *w = job->writer;
    const char *out = job->path;
    bool resume = job->options->resume, look = resume || !job->options->force;
    bool found = false, taken = false;
    if ((look && !journal_resume(j, out, plan, &found, err)) ||
        (!found && !journal_create(j, out, plan, err))) {
        journal_close(j);
        return false;
    }
    bool ok = found ? gguf_writer_resume(w, out, &taken, err) : gguf_writer_begin(w, out, err);
    if (ok && found && !taken) { /* what the journal speaks of is gone */
        journal_close(j);
        ok = journal_create(j, out, plan, err);
    }
    if (ok && taken && !resume && j->n_records) {
        ok = fail(err, ERR_USAGE, "%s: an interrupted run has finished %zu pieces of this: --resume "
                  "goes on with them, --force begins anew", out, j->n_records);
        gguf_writer_keep(w);
        journal_close(j);
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

static bool fill(const struct output_job *job, struct pool *pool, struct journal *j,
                 struct transcode *t, struct error *err)
{
    struct progress progress;
    *t = (struct transcode){
        .writer = job->writer, .pool = pool, .tensors = job->tensors, .n_tensors = job->n_tensors,
        .replace_nonfinite = job->options->replace_nonfinite, .journal = j,
        .verify = job->options->verify, .sync_s = job->pace.sync_s,
        .chunk_elements = job->pace.chunk_elements,
        .progress = show_progress, .progress_ctx = &progress, .cancel = signals_cancel_flag(),
    };
    progress_begin(&progress, job->verb, NULL);
    bool ok = transcode_run(t, err) && job->unchanged(job->ctx, err);
    progress_end(&progress);
    return ok;
}

/* The canary, from the finished data. A model that cannot be run is a file all the same. */
static bool sing(const struct output_job *job, struct error *err)
{
    struct error why = { 0 };
    if (!job->canary ||
        canary_fill(job->writer, job->threads, signals_cancel_flag(), &why))
        return true;
    if (why.code == ERR_INTERRUPTED || why.code == ERR_RUN)
        return error_set(err, why.code, why.file, why.line, "%s", why.text);
    note("no canary: %s", why.text);
    return true;
}

static void report(const struct output_job *job, const struct transcode *t, double seconds)
{
    char size[32], rate[32], peak[32];
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    if (t->n_replaced)
        note("%llu values were not finite and were replaced", (ull)t->n_replaced);
    if (t->n_taken_up)
        note("%llu of %llu pieces were there already", (ull)t->n_taken_up, (ull)t->n_chunks);
    if (t->n_verified)
        note("%llu pieces were read back: what was written is on the disk", (ull)t->n_verified);
    note("%s%s: %s, %.2f bits per weight, %.1f s, %s/s read, peak memory %s",
         gguf_writer_path(job->writer, 0), job->writer->n_shards > 1 ? " and the following" : "",
         human_bytes((double)job->bytes_after, size, sizeof size),
         8.0 * (double)job->bytes_after / job->weights, seconds,
         human_bytes((double)job->bytes_before / max_of(seconds, 1e-3), rate, sizeof rate),
         human_bytes(1024.0 * (double)used.ru_maxrss, peak, sizeof peak));
}

static void note_safe(const struct transcode *t)
{
    char safe[32], all[32];
    note("stopped; %s of %s are safe: the same command with --resume goes on",
         human_bytes((double)t->safe_bytes, safe, sizeof safe),
         human_bytes((double)t->all_bytes, all, sizeof all));
}

/* Unfinished work is kept where going on makes sense: after an interruption or a failure of the
 * system, not when the same thing would fail again. */
static bool worth_keeping(const struct error *err)
{
    return err->code == ERR_INTERRUPTED || err->code == ERR_RUN;
}

bool output_run(const struct output_job *job, const char *plan, struct error *err)
{
    struct journal j = { 0 };
    struct pool *pool = NULL;
    struct transcode t = { 0 };
    struct error why = { 0 };
    double start = now_s();
    gguf_writer_split(job->writer, 0, (uint64_t)job->options->split_max_bytes, 0);
    bool ok = pool_open(&pool, job->threads, &why) &&
              begin(job, &j, plan, &why);
    if (ok) {
        ok = fill(job, pool, &j, &t, &why);
        pool_close(pool);
        pool = NULL;
        ok = ok && sing(job, &why) && gguf_writer_finish(job->writer, &why);
        if (!ok && worth_keeping(&why)) {
            gguf_writer_keep(job->writer);
            journal_close(&j);
            note_safe(&t);
        }
        journal_remove(&j);
    }
    if (ok)
        report(job, &t, now_s() - start);
    else
        error_set(err, why.code, why.file, why.line, "%s", why.text);
    pool_close(pool);
    return ok;
}
