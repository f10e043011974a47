#include "src/cli/run_session.h"

#include <stdio.h>
#include <stdlib.h>

#include "src/engine/prefix_file.h"

bool run_session_begin(struct store *s, const struct options *o, struct error *err)
{
    if (!o->save_session)
        return true;
    if (o->raw || o->messages || o->tools)
        return fail(err, ERR_USAGE, "--save-session keeps one question and its answer: it goes with "
                    "neither --raw nor --messages nor --tools");
    return store_create(s, o->save_session, err);
}

/* A session without its cache is whole, too: what fails here costs time later. */
static void save_cache(const struct store *s, const struct loaded *m)
{
    char path[PATH_SIZE];
    struct prefix_file *f;
    snprintf(path, sizeof path, "%.*s/cache", PATH_SIZE - 8, s->folder);
    if (prefix_file_open(&f, path, m->session, NULL))
        prefix_file_save(f, m->session, 0, NULL);
    prefix_file_close(f);
}

static bool keep(struct store *s, const struct loaded *m, const struct options *o,
                 const char *model_path, struct str question, const struct generation *g,
                 struct error *err)
{
    char whole[PATH_SIZE];
    struct buf system = { 0 };
    int64_t id;
    bool ok = load_system(o, &system, err) &&
              store_set(s, SET_MODEL, str_of(realpath(model_path, whole) ? whole : model_path),
                        err) &&
              store_set(s, SET_DESCRIPTION, str_of(m->description), err) &&
              store_set(s, SET_SYSTEM, buf_str(&system), err) &&
              store_ask(s, 0, question, &id, err) &&
              store_answer(s, id, buf_str(&g->stored), buf_str(&g->thinking), g->n_generated, err);
    buf_release(&system);
    return ok;
}

bool run_session_end(struct store *s, bool ok, const struct loaded *m, const struct options *o,
                     const char *model_path, struct str question, const struct generation *g,
                     struct error *err)
{
    if (!s->log.open)
        return ok;
    ok = ok && keep(s, m, o, model_path, question, g, err);
    if (ok) {
        save_cache(s, m);
        store_close(s);
    } else {
        store_remove(s, NULL);
    }
    return ok;
}
