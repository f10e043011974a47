/* What options are before the command line is read: defaults, then files of settings from the
 * weakest to the strongest (src/cli/paths.h), then the environment. Where each setting comes from
 * is kept. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "src/cli/option_value.h"
#include "src/cli/paths.h"
#include "src/engine/engine.h"

/* --help and --version are asked on the spot, never configured. */
static bool is_setting(const struct option *row)
{
    return strcmp(row->name, "help") != 0 && strcmp(row->name, "version") != 0;
}

/* Keep where a value comes from; line 0: the environment. */
static bool record(struct options *o, const char *name, const char *value, const char *where,
                   int line, struct error *err)
{
    char text[PATH_SIZE + 16];
    if (o->n_settings == MAX_LIST)
        return fail(err, ERR_USAGE, "more than %d settings", MAX_LIST);
    int n = line ? snprintf(text, sizeof text, "%s:%d", where, line)
                 : snprintf(text, sizeof text, "%s", where);
    char *origin = arena_strndup(&o->arena, text, (size_t)n, err);
    o->settings[o->n_settings++] = (struct setting){ name, value, origin };
    return origin != NULL;
}

static bool read_environment(struct options *o, unsigned command, struct error *err)
{
    for (int i = 0; i < n_option_rows; i++) {
        const struct option *row = &option_rows[i];
        char name[64] = "TANDEM_";
        size_t n = strlen(name);
        for (const char *p = row->name; *p && n + 1 < sizeof name; p++)
            name[n++] = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
        name[n] = 0;
        const char *value = getenv(name);
        if (!value || !*value || !(row->commands & command) || !is_setting(row))
            continue;
        if (!option_apply_named(o, row, value, err))
            return error_prefix(err, "%s", name);
        bool again = o->n_settings > 0 && /* rows of one name stand side by side */
                     strcmp(o->settings[o->n_settings - 1].name, row->name) == 0 &&
                     strcmp(o->settings[o->n_settings - 1].origin, name) == 0;
        if (!again && !record(o, row->name, value, name, 0, err))
            return false;
    }
    return true;
}

/* One file of settings. */
struct config_file {
    const char *path;
    enum config_home home;
};

static char *trimmed(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1]))
        text[--n] = 0;
    return text;
}

/* A file that comes with a folder, perhaps from strangers, says how a model runs and answers; what
 * is written where is for the user to say. */
static bool belongs_to_folder(const struct option *row)
{
    return row->group == GROUP_PROMPT || row->group == GROUP_SAMPLING || row->group == GROUP_MODEL ||
           row->group == GROUP_PLACEMENT;
}

static bool set_from_config(struct options *o, unsigned command, const char *key, const char *value,
                            const struct config_file *file, int line, struct error *err)
{
    bool known = false, ours = false;
    for (int i = 0; i < n_option_rows; i++) {
        const struct option *row = &option_rows[i];
        if (strcmp(row->name, key) != 0 || !is_setting(row))
            continue;
        known = true;
        ours = ours || (row->commands & command);
        if (file->home == CONFIG_OF_FOLDER && !belongs_to_folder(row))
            return fail(err, ERR_USAGE, "\"%s\" is not for a folder to set: it goes to the command "
                        "line or into your own file", key);
        if ((row->commands & command) && !option_apply_named(o, row, value, err))
            return error_prefix(err, "%s", key);
    }
    if (!known)
        return fail(err, ERR_USAGE, "unknown setting \"%s\"", key);
    return !ours || record(o, key, value, file->path, line, err);
}

/* Lines are `key = value`, `# comment`, `[models]`; below the latter, `name = path`. */
static bool read_config(struct options *o, unsigned command, const struct config_file *file,
                        struct error *err)
{
    struct buf text = { 0 };
    struct error missing = { 0 };
    bool ok = buf_read_file(&text, file->path, &missing) && buf_ok(&text, &missing) &&
              (!memchr(buf_str(&text).data, 0, text.len) ||
               fail(&missing, ERR_USAGE, "%s: holds a zero byte, expected lines of text: write it anew",
                    file->path));
    char *copy = ok ? arena_strndup(&o->arena, buf_str(&text).data, text.len, err) : NULL;
    buf_release(&text);
    if (!ok)
        return fail(err, ERR_USAGE, "%s", missing.text);
    bool in_models = false;
    int number = 1;
    for (char *line = copy, *next; ok && line; line = next, number++) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        line = trimmed(line);
        char *equals = strchr(line, '=');
        if (!*line || *line == '#')
            continue;
        if (*line == '[') {
            in_models = strcmp(line, "[models]") == 0;
            ok = in_models || fail(err, ERR_USAGE, "unknown section %s", line);
        } else if (!equals) {
            ok = fail(err, ERR_USAGE, "wants key = value");
        } else {
            *equals = 0;
            char *key = trimmed(line), *value = trimmed(equals + 1);
            if (!in_models)
                ok = set_from_config(o, command, key, value, file, number, err);
            else if ((ok = o->n_models < MAX_LIST ||
                           fail(err, ERR_USAGE, "more than %d models", MAX_LIST)))
                o->models[o->n_models++] = (struct named_model){ key, value };
        }
    }
    return copy ? ok || error_prefix(err, "%s:%d", file->path, number - 1) : false;
}

static bool read_configs(struct options *o, unsigned command, struct error *err)
{
    char path[PATH_SIZE];
    struct config_file file = { .path = path };
    struct stat st;
    for (int i = 0; path_config_at(i, path, sizeof path, &file.home); i++) {
        if (!*path || stat(path, &st) != 0 ||
            (file.home == CONFIG_OF_FOLDER && !S_ISREG(st.st_mode)))
            continue;
        if (!read_config(o, command, &file, err))
            return false;
    }
    return true;
}

bool options_init(struct options *o, unsigned command, struct error *err)
{
    memset(o, 0, sizeof *o);
    o->gpu = GPU_AUTO;
    o->ctx_size = o->think_budget = o->top_k = UNSET;
    o->cpu_moe = o->gpu_experts = o->vram_bytes = o->ram_bytes = UNSET;
    o->gpu_experts_share = NAN;
    o->vram_margin = (int64_t)768 << 20;
    o->n_predict = o->seed = -1;
    o->temperature = o->top_p = o->min_p = NAN;
    o->repeat_penalty = 1;
    o->max_ppl = INFINITY;
    o->max_kl = INFINITY;
    o->repetitions = UNSET;
    o->max_loss = 0.03;
    return read_configs(o, command, err) && read_environment(o, command, err);
}

const char *options_configured_model(const struct options *o, const char *name)
{
    for (int i = o->n_models - 1; i >= 0; i--) /* the strongest file was read last */
        if (strcmp(o->models[i].name, name) == 0)
            return o->models[i].path;
    return NULL;
}
