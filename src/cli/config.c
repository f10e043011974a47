/* tandem config show: the settings that count, and where each comes from. */
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/command.h"
#include "src/cli/json.h"
#include "src/cli/option_table.h"
#include "src/cli/paths.h"
#include "src/cli/term.h"

/* The strongest source of a setting, or NULL. */
static const struct setting *source_of(const struct options *all, const char *name)
{
    const struct setting *found = NULL;
    for (int i = 0; i < all->n_settings; i++)
        if (strcmp(all->settings[i].name, name) == 0)
            found = &all->settings[i];
    return found;
}

/* Several rows may have one name: the first with it speaks for all. */
static bool is_first(int row)
{
    for (int i = 0; i < row; i++)
        if (strcmp(option_rows[i].name, option_rows[row].name) == 0)
            return false;
    return true;
}

static bool is_listed(int row, const struct setting *source, bool defaults)
{
    return is_first(row) && option_rows[row].help && (source || defaults);
}

static const char *default_of(const struct option *row)
{
    return row->fallback ? row->fallback : row->argument ? "none" : "off";
}

/* Is this model the one that its name stands for? */
static bool is_strongest(const struct options *all, int model)
{
    return options_configured_model(all, all->models[model].name) == all->models[model].path;
}

static void list_text(struct buf *out, const struct options *all, bool defaults)
{
    for (int i = 0; i < n_option_rows; i++) {
        const struct setting *s = source_of(all, option_rows[i].name);
        if (is_listed(i, s, defaults))
            buf_printf(out, "%s = %s   (%s)\n", option_rows[i].name,
                       s ? s->value : default_of(&option_rows[i]), s ? s->origin : "default");
    }
    if (all->n_models)
        buf_puts(out, "[models]\n");
    for (int i = 0; i < all->n_models; i++)
        if (is_strongest(all, i))
            buf_printf(out, "%s = %s\n", all->models[i].name, all->models[i].path);
}

/* Where settings may stand, from the weakest to the strongest, and whether there is such a file. */
static struct json *list_files(void)
{
    struct json *files = js_array();
    char path[PATH_SIZE];
    enum config_home home;
    for (int i = 0; path_config_at(i, path, sizeof path, &home); i++) {
        struct json *file = js_object();
        js_set(file, "path", js_text(str_of(path)));
        js_set(file, "exists", js_bool(*path && access(path, F_OK) == 0));
        js_push(files, file);
    }
    return files;
}

static bool list_json(const struct options *all, const char *path, struct error *err)
{
    struct json *j = js_object(), *list = js_array(), *models = js_object();
    for (int i = 0; i < n_option_rows; i++) {
        const struct setting *s = source_of(all, option_rows[i].name);
        if (!is_listed(i, s, true))
            continue;
        struct json *row = js_object();
        js_set(row, "name", js_text(str_of(option_rows[i].name)));
        js_set(row, "value", js_text(str_of(s ? s->value : default_of(&option_rows[i]))));
        js_set(row, "origin", js_text(str_of(s ? s->origin : "default")));
        js_push(list, row);
    }
    for (int i = 0; i < all->n_models; i++)
        js_set(models, all->models[i].name, js_text(str_of(all->models[i].path)));
    js_set(j, "file", js_text(str_of(path)));
    js_set(j, "files", list_files());
    js_set(j, "settings", list);
    js_set(j, "models", models);
    return js_print(j, 2, err);
}

bool cmd_config(struct options *o, struct error *err)
{
    char path[PATH_SIZE] = "";
    struct buf out = { 0 };
    if (o->n_positional > 1 || (o->n_positional == 1 && strcmp(o->positional[0], "show") != 0))
        return fail(err, ERR_USAGE, "tandem config knows \"show\" only; settings are changed in the "
                    "file, with an editor");
    struct options *all = mem_alloc(1, sizeof *all, "settings", err);
    if (!all)
        return false;
    path_config(path, sizeof path);
    bool ok = (!o->json || js_available(err)) && options_init(all, ~0u, err);
    if (ok && o->json) {
        ok = list_json(all, path, err);
    } else if (ok) {
        list_text(&out, all, o->verbose > 0);
        if (out.len == 0)
            note("nothing is set; settings go to %s, one \"name = value\" a line (-v lists all)",
                 path);
        ok = buf_ok(&out, err) && (out.len == 0 || out_write(out.data, out.len, err));
    }
    buf_release(&out);
    options_release(all);
    mem_free(all);
    return ok;
}
