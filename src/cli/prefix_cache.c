#include "src/cli/prefix_cache.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/engine/prefix_file.h"

bool prefix_cache_open(struct prefix_cache *p, const char *path, const struct loaded *m,
                       struct error *err)
{
    char inside[PATH_SIZE];
    struct stat st;
    size_t len = strlen(path);
    if (len > 1 && path[len - 1] == '/' && mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail(err, ERR_RUN, "option --prefix-cache: %s: %s", path, strerror(errno));
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        int n = snprintf(inside, sizeof inside, "%s/%016llx.cache", path,
                         (unsigned long long)engine_fingerprint(m->engine));
        if (n < 0 || (size_t)n >= sizeof inside)
            return fail(err, ERR_USAGE, "option --prefix-cache: the path is too long");
        path = inside;
    }
    *p = (struct prefix_cache){ .session = m->session };
    if (prefix_file_open(&p->file, path, m->session, err))
        return true;
    return error_prefix(err, "option --prefix-cache");
}

void prefix_cache_close(struct prefix_cache *p)
{
    prefix_file_close(p->file);
    *p = (struct prefix_cache){ 0 };
}

static void give_up(struct prefix_cache *p, const struct error *why)
{
    note("the prefix cache is not used: %s", why->text);
    prefix_cache_close(p);
}

bool restore_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct restore_progress *r = ctx;
    if (!r->begun)
        progress_begin(&r->progress, r->label, NULL);
    r->begun = true;
    progress_update(&r->progress, (double)done_bytes, (double)total_bytes);
    return !signals_cancelled();
}

void restore_progress_end(struct restore_progress *r)
{
    if (r->begun)
        progress_end(&r->progress);
}

bool prefix_cache_before(void *ctx, const struct tokens *prompt, struct error *err)
{
    struct prefix_cache *p = ctx;
    struct restore_progress progress = { .label = "restoring" };
    struct error why = { 0 };
    int64_t n_read;
    if (!p->file)
        return true;
    bool ok = prefix_file_restore(p->file, p->session, prompt->ids, (int64_t)prompt->n, &n_read,
                                  restore_progress, &progress, &why);
    restore_progress_end(&progress);
    if (!ok && why.code == ERR_INTERRUPTED)
        return error_set(err, why.code, why.file, why.line, "%s", why.text);
    if (!ok)
        give_up(p, &why);
    else if (prefix_file_damaged(p->file))
        note("part of the prefix cache is damaged: that is read again");
    return true;
}

void prefix_cache_after(void *ctx)
{
    struct prefix_cache *p = ctx;
    struct error why = { 0 };
    if (p->file && !prefix_file_save(p->file, p->session, 0, &why))
        give_up(p, &why);
}
