#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/run.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"

struct batch {
    struct loaded *m;
    const struct options *o;
    struct run_kept *kept;
    struct output_file file;
    struct run_target target;
    struct json **done; /* [n_done] owned: lines of the output, sorted by id */
    size_t n_done, capacity;
    size_t n_answered, n_skipped, n_failed;
};

/* ---- ids: any JSON value; what is equal is written equally ---- */

static int compare_texts(const struct json *a, const struct json *b)
{
    struct buf x = { 0 }, y = { 0 };
    js_write(&x, a);
    js_write(&y, b);
    int order = strcmp(buf_str(&x).data, buf_str(&y).data);
    buf_release(&x);
    buf_release(&y);
    return order;
}

static int by_id(const void *a, const void *b)
{
    const struct json *const *x = a, *const *y = b;
    return compare_texts(js_get(*x, "id"), js_get(*y, "id"));
}

static bool is_done(const struct batch *b, const struct json *id)
{
    size_t low = 0, high = b->n_done;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = compare_texts(id, js_get(b->done[middle], "id"));
        if (order == 0)
            return true;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}

/* ---- what an earlier run has left ---- */

static bool keep_line(struct batch *b, struct json *line, struct error *err)
{
    if (b->n_done == b->capacity) {
        size_t capacity = max_of(2 * b->capacity, (size_t)64);
        struct json **list = mem_resize(b->done, capacity, sizeof *list, "answers", err);
        if (!list) {
            js_free(line);
            return false;
        }
        b->done = list;
        b->capacity = capacity;
    }
    b->done[b->n_done++] = line;
    return true;
}

/* Read whole lines; what stands behind the last of them, an answer that was cut off, is taken away. */
static bool read_done(struct batch *b, struct error *err)
{
    struct buf text = { 0 };
    const char *path = b->o->output;
    if (access(path, F_OK) != 0)
        return true;
    bool ok = buf_read_file(&text, path, err) && buf_ok(&text, err);
    size_t at = 0;
    for (int number = 1; ok && at < text.len; number++) {
        const char *end = memchr(text.data + at, '\n', text.len - at);
        if (!end)
            break;
        size_t n = (size_t)(end - (text.data + at));
        struct error why = { 0 };
        struct json *line = js_parse((struct str){ text.data + at, n }, &why);
        if (!line || !js_get(line, "id")) {
            js_free(line);
            ok = fail(err, ERR_FILE, "%s:%d: no answer of a batch: %s", path, number,
                      why.text[0] ? why.text : "it has no \"id\"");
        } else {
            ok = keep_line(b, line, err);
        }
        at += n + 1;
    }
    if (ok && at < text.len && !b->o->dry_run && truncate(path, (off_t)at) != 0)
        ok = fail(err, ERR_RUN, "%s: cannot take the cut line away: %s", path, strerror(errno));
    if (b->n_done)
        qsort(b->done, b->n_done, sizeof *b->done, by_id);
    buf_release(&text);
    return ok;
}

/* What is there is added to, so it is not made anew. */
bool run_batch_check(const struct options *o, struct error *err)
{
    int fd = open(o->batch_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(err, ERR_FILE, "%s: %s", o->batch_file, strerror(errno));
    close(fd);
    if (!o->output || access(o->output, F_OK) != 0)
        return !o->output || output_try(o->output, err);
    fd = open(o->output, O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(err, ERR_RUN, "%s: cannot write: %s", o->output, strerror(errno));
    close(fd);
    return true;
}

static bool open_output(struct batch *b, struct error *err)
{
    if (!b->o->output)
        return true;
    if (!read_done(b, err))
        return false;
    if (b->o->dry_run)
        return true;
    b->file.path = b->o->output;
    b->file.fd = open(b->o->output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    b->target.file = &b->file;
    return b->file.fd >= 0 || fail(err, ERR_RUN, "%s: cannot write: %s", b->o->output,
                                   strerror(errno));
}

/* ---- prompts ---- */

/* A prompt that cannot be answered gets a line as well, so that a rerun does not meet it again. */
static bool put_failure(struct batch *b, const struct json *id, const char *why, struct error *err)
{
    b->n_failed++;
    note("%s", why);
    if (b->o->dry_run)
        return true;
    struct json *j = js_object();
    struct buf line = { 0 };
    js_set(j, "id", js_copy(id));
    js_set(j, "error", js_text(str_of(why)));
    bool ok = js_take_text(j, 0, &line, err) &&
              (b->target.file ? output_write(&b->file, line.data, line.len, err)
                              : out_write(line.data, line.len, err));
    buf_release(&line);
    return ok;
}

static bool ask(struct batch *b, const struct json *line, const struct json *id, struct error *err)
{
    struct run_prompt p = { .text = { "", 0 }, .id = id };
    struct error why = { 0 };
    bool has_prompt = js_as_text(js_get(line, "prompt"), &p.text);
    p.talk = js_get(line, "messages") ? line : NULL;
    if (is_done(b, id)) {
        b->n_skipped++;
        return true;
    }
    if (!has_prompt && !p.talk)
        return put_failure(b, id, "the line has neither \"prompt\" nor \"messages\"", err);
    if (run_answer(b->m, b->o, &p, &b->target, b->kept, &why)) {
        b->n_answered++;
        return b->file.fd < 0 || fdatasync(b->file.fd) == 0 || errno == EINVAL ||
               fail(err, ERR_RUN, "%s: cannot write: %s", b->file.path, strerror(errno));
    }
    if (why.code == ERR_USAGE || why.code == ERR_FILE) /* this prompt's fault */
        return put_failure(b, id, why.text, err);
    return fail(err, why.code, "%s", why.text);
}

static bool ask_all(struct batch *b, struct str text, struct error *err)
{
    const char *path = b->o->batch_file;
    bool ok = true;
    int64_t number = 0;
    for (size_t at = 0; ok && at < text.len;) {
        const char *end = memchr(text.data + at, '\n', text.len - at);
        size_t n = end ? (size_t)(end - (text.data + at)) : text.len - at;
        struct str one = { text.data + at, n };
        at += n + 1;
        number++;
        if (strspn(one.data, " \t\r") >= n)
            continue;
        struct error why = { 0 };
        struct json *line = js_parse(one, &why), *counted = js_int(number);
        const struct json *id = js_get(line, "id") ? js_get(line, "id") : counted;
        if (!js_is_object(line))
            ok = fail(err, ERR_FILE, "%s:%lld: expected a JSON object: %s", path,
                      (long long)number, why.text);
        else
            ok = ask(b, line, id, err);
        js_free(line);
        js_free(counted);
        if (ok && signals_cancelled())
            ok = fail(err, ERR_INTERRUPTED, "interrupted");
    }
    return ok;
}

bool run_batch(struct loaded *m, const struct options *o, struct run_kept *kept,
               struct error *err)
{
    struct batch b = { .m = m, .o = o, .kept = kept, .file = { .fd = -1 },
                       .target = { .in_lines = true } };
    struct buf text = { 0 };
    bool ok = buf_read_file(&text, o->batch_file, err) && buf_ok(&text, err) &&
              open_output(&b, err) && ask_all(&b, buf_str(&text), err);
    ok = output_close(&b.file, ok, ok ? err : NULL) && ok;
    if ((ok || b.n_answered) && !o->dry_run)
        note("%zu answered, %zu done before, %zu failed%s", b.n_answered, b.n_skipped,
             b.n_failed, ok || !o->output ? "" : "; the same command goes on");
    for (size_t i = 0; i < b.n_done; i++)
        js_free(b.done[i]);
    mem_free(b.done);
    buf_release(&text);
    if (ok && b.n_failed)
        ok = fail(err, ERR_RUN, "%zu of the prompts could not be answered", b.n_failed);
    return ok;
}
