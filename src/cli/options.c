#include "src/cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/command.h"
#include "src/cli/option_table.h"
#include "src/engine/engine.h"
#include "src/cli/paths.h"
#include "src/cli/term.h"
#include "src/cli/repair.h"

/* ---- one value into its field ---------------------------------------------------------------- */

static bool read_int(const struct option *row, const char *value, int64_t *out, struct error *err)
{
    char *end;
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (end == value || *end || errno || (double)n < row->low || (double)n > row->high)
        return fail(err, ERR_USAGE, "wants a whole number from %.0f to %.0f, got \"%s\"", row->low,
                    row->high, value);
    *out = n;
    return true;
}

static bool read_real(const struct option *row, const char *value, double *out, struct error *err)
{
    char *end;
    errno = 0;
    double x = strtod(value, &end);
    if (end == value || *end || (errno && x != 0) || !(x >= row->low && x <= row->high))
        return fail(err, ERR_USAGE, "wants a number from %g to %g, got \"%s\"", row->low, row->high,
                    value);
    *out = x;
    return true;
}

static bool read_sizes(const struct option *row, const char *value, struct size_list *out,
                       struct error *err)
{
    struct size_list list = { .n = 0 };
    for (const char *at = value;; at++) {
        char number[24];
        size_t len = strcspn(at, ",");
        if (list.n == MAX_SIZES)
            return fail(err, ERR_USAGE, "takes at most %d numbers", MAX_SIZES);
        if (len >= sizeof number)
            len = sizeof number - 1;
        memcpy(number, at, len);
        number[len] = 0;
        if (!read_int(row, number, &list.items[list.n++], err))
            return false;
        at += len;
        if (*at != ',')
            break;
    }
    *out = list;
    return true;
}

static bool read_choice(const struct option *row, const char *value, int *out, struct error *err)
{
    int index = 0;
    for (const char *at = row->choices;; index++) {
        size_t len = strcspn(at, "|");
        if (strlen(value) == len && memcmp(at, value, len) == 0) {
            *out = index;
            return true;
        }
        if (!at[len])
            return fail(err, ERR_USAGE, "wants one of %s, got \"%s\"",
                        row->argument && strchr(row->argument, '|') ? row->argument : row->choices,
                        value);
        at += len + 1;
    }
}

/* `value` is NULL for kinds without an argument. */
static bool apply(struct options *o, const struct option *row, const char *value, struct error *err)
{
    void *field = (char *)o + row->offset;
    struct text_list *list = field;
    switch (row->kind) {
    case OPT_FLAG:
        *(bool *)field = true;
        return true;
    case OPT_COUNT:
        ++*(int *)field;
        return true;
    case OPT_CONST:
        *(int *)field = (int)row->low;
        return true;
    case OPT_INT:
        return read_int(row, value, field, err);
    case OPT_REAL:
        return read_real(row, value, field, err);
    case OPT_TEXT:
        *(const char **)field = value;
        return true;
    case OPT_LIST:
        if (list->n == MAX_LIST)
            return fail(err, ERR_USAGE, "is given more than %d times", MAX_LIST);
        list->items[list->n++] = value;
        return true;
    case OPT_SIZES:
        return read_sizes(row, value, field, err);
    case OPT_ACTION:
        return row->read(o, NULL, err);
    case OPT_SIZE:
        return option_size(value, (int64_t)row->low, field) ||
               fail(err, ERR_USAGE, "wants a size such as 48G, got \"%s\"", value);
    case OPT_CHOICE:
        return read_choice(row, value, field, err);
    case OPT_CUSTOM:
        return row->read(o, value, err);
    case OPT_MAYBE:
        *(bool *)field = true;
        *(const char **)((char *)o + row->offset2) = value;
        return true;
    }
    return false;
}

static bool wants_value(const struct option *row)
{
    return row->kind > OPT_CONST && row->kind != OPT_MAYBE;
}

/* ---- configuration file and environment ------------------------------------------------------ */

/* Is `value` a yes (1), a no (0), or neither (-1)? For flags outside the command line. */
static int yes_or_no(const char *value)
{
    static const char *const words[] = { "0", "off", "no", "false", "1", "on", "yes", "true" };
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcmp(value, words[i]) == 0)
            return i >= 4;
    return -1;
}

/* A value from the configuration file or the environment. */
static bool apply_named(struct options *o, const struct option *row, const char *value,
                        struct error *err)
{
    if (wants_value(row))
        return apply(o, row, value, err);
    int answer = yes_or_no(value);
    if (answer < 0 && row->kind == OPT_MAYBE)
        return apply(o, row, value, err);
    if (answer < 0)
        return fail(err, ERR_USAGE, "wants on or off, got \"%s\"", value);
    return answer == 0 || apply(o, row, NULL, err);
}

/* ---- changing an option while running -------------------------------------------------------- */

static bool is_settable(const struct option *row, unsigned command)
{
    bool single = row->kind == OPT_INT || row->kind == OPT_REAL || row->kind == OPT_CHOICE ||
                  row->kind == OPT_FLAG;
    return single && (row->commands & command) && row->help &&
           (row->group == GROUP_ANSWER || row->group == GROUP_SAMPLING) &&
           strcmp(row->name, "no-history") != 0;
}

int options_settable(unsigned command, const char **names, int size)
{
    int n = 0;
    for (int i = 0; i < n_option_rows && n < size; i++)
        if (is_settable(&option_rows[i], command))
            names[n++] = option_rows[i].name;
    return n;
}

/* The word at position `index` of "a|b|c". */
static void choice_name(const struct option *row, int index, char *text, size_t size)
{
    const char *at = row->choices;
    for (; index > 0; index--)
        at += strcspn(at, "|") + 1;
    snprintf(text, size, "%.*s", (int)strcspn(at, "|"), at);
}

void options_show_settable(struct buf *out, const struct options *o, unsigned command)
{
    for (int i = 0; i < n_option_rows; i++) {
        const struct option *row = &option_rows[i];
        const void *field = (const char *)o + row->offset;
        char value[48] = "";
        if (!is_settable(row, command))
            continue;
        if (row->kind == OPT_FLAG)
            snprintf(value, sizeof value, "%s", *(const bool *)field ? "on" : "off");
        else if (row->kind == OPT_CHOICE)
            choice_name(row, *(const int *)field, value, sizeof value);
        else if (row->kind == OPT_INT && *(const int64_t *)field != UNSET)
            snprintf(value, sizeof value, "%lld", (long long)*(const int64_t *)field);
        else if (row->kind == OPT_REAL && !isnan(*(const double *)field))
            snprintf(value, sizeof value, "%g", *(const double *)field);
        buf_printf(out, "  %-18s %-6s  %s%s%s%s\n", row->name, *value ? value : "auto", row->help,
                   row->kind == OPT_CHOICE ? " (" : "",
                   row->kind == OPT_CHOICE ? row->argument : "", row->kind == OPT_CHOICE ? ")" : "");
    }
}

bool options_set(struct options *o, unsigned command, const char *name, const char *value,
                 struct error *err)
{
    const char *names[64];
    for (int i = 0; i < n_option_rows; i++) {
        const struct option *row = &option_rows[i];
        bool thinking = strcmp(row->name, "think") == 0 && (row->commands & command);
        if ((!is_settable(row, command) && !thinking) || strcmp(row->name, name) != 0)
            continue;
        int answer = row->kind == OPT_FLAG ? (*value ? yes_or_no(value) : 1) : 0;
        bool ok = row->kind != OPT_FLAG ? apply(o, row, value, err)
                : answer >= 0 || fail(err, ERR_USAGE, "wants on or off, got \"%s\"", value);
        if (ok && row->kind == OPT_FLAG)
            *(bool *)((char *)o + row->offset) = answer > 0;
        return ok || error_prefix(err, "%s", name);
    }
    const char *near = nearest_name(name, names, options_settable(command, names, 64));
    return fail(err, ERR_USAGE, near ? "nothing called %s can be set (did you mean %s?)"
                                     : "nothing called %s can be set (/set lists what can)", name,
                near);
}

/* ---- configuration file and environment, continued ------------------------------------------- */

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
        if (!apply_named(o, row, value, err))
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

/* A file that comes with a folder, perhaps from strangers, says how a model runs and answers; what is
 * written where is for the user to say. */
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
        if ((row->commands & command) && !apply_named(o, row, value, err))
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
    bool ok = buf_read_file(&text, file->path, &missing) && buf_ok(&text, &missing);
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
            else if (o->n_models < MAX_LIST)
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

void options_release(struct options *o)
{
    arena_release(&o->arena);
    memset(o, 0, sizeof *o);
}

/* ---- command line ---------------------------------------------------------------------------- */

/* Is `word` one of the words of `list`, separated by blanks? */
static bool in_list(const char *list, const char *word, size_t len)
{
    for (const char *at = list; at && *at;) {
        size_t n = strcspn(at, " ");
        if (n == len && memcmp(at, word, len) == 0)
            return true;
        at += n + strspn(at + n, " ");
    }
    return false;
}

/* Does this row answer to `word`, dashes included? */
static bool spelled(const struct option *row, const char *word, size_t len)
{
    if (len > 2 && memcmp(word, "--", 2) == 0 && strlen(row->name) == len - 2 &&
        memcmp(row->name, word + 2, len - 2) == 0)
        return true;
    return in_list(row->brief, word, len) || in_list(row->also, word, len);
}

static const struct option *find_row(unsigned commands, const char *word, size_t len)
{
    for (int i = 0; i < n_option_rows; i++)
        if ((option_rows[i].commands & commands) && spelled(&option_rows[i], word, len))
            return &option_rows[i];
    return NULL;
}

static const char *command_of(unsigned commands)
{
    for (int i = 0; command_at(i); i++)
        if (commands & command_at(i)->bit)
            return command_at(i)->name;
    return "";
}

static bool unknown_option(unsigned command, const char *word, size_t len, struct error *err)
{
    char text[64], longs[ARRAY_LEN(((struct options *)0)->bias) * 2][40];
    const char *names[ARRAY_LEN(longs) * 2];
    int n = 0;
    snprintf(text, sizeof text, "%.*s", (int)min_of(len, sizeof text - 1), word);
    const struct option *elsewhere = find_row(~0u, word, len);
    if (elsewhere)
        return fail(err, ERR_USAGE, "option %s belongs to tandem %s", text,
                    command_of(elsewhere->commands));
    for (int i = 0; i < n_option_rows && i < (int)ARRAY_LEN(longs); i++) {
        if (!(option_rows[i].commands & command))
            continue;
        snprintf(longs[i], sizeof longs[i], "--%s", option_rows[i].name);
        names[n++] = longs[i];
        if (option_rows[i].brief && strlen(option_rows[i].brief) > 2)
            names[n++] = option_rows[i].brief;
    }
    const char *near = nearest_name(text, names, n);
    if (near)
        return fail(err, ERR_USAGE, "unknown option %s (did you mean %s?)", text, near);
    return fail(err, ERR_USAGE, "unknown option %s (tandem %s --help lists all)", text,
                command_of(command));
}

/* Options of other programs. Returns how many arguments were used, 0 when it is none of them, -1 on
 * failure. */
static int foreign(int left, char **argv, struct error *err)
{
    for (int i = 0; i < n_foreign_options; i++) {
        const struct foreign_option *f = &foreign_options[i];
        size_t len = strlen(f->name);
        bool attached = strncmp(argv[0], f->name, len) == 0 && argv[0][len] == '=';
        if (!attached && strcmp(argv[0], f->name) != 0)
            continue;
        if (!f->habit) {
            fail(err, ERR_USAGE, "option %s is not one of ours: %s", f->name, f->text);
            return -1;
        }
        note("%s has no effect: %s", f->name, f->text);
        if (attached || f->takes == ALONE || left < 2)
            return 1;
        if (f->takes == ONE_VALUE)
            return 2;
        return yes_or_no(argv[1]) >= 0 || strcmp(argv[1], "auto") == 0 ? 2 : 1;
    }
    return 0;
}

/* The optional argument of OPT_MAYBE: the next word, unless it is an option or a file. */
static const char *maybe_value(int left, char **argv)
{
    if (left < 2 || argv[1][0] == '-' || access(argv[1], F_OK) == 0)
        return NULL;
    return argv[1];
}

/* One option at argv[0]; *used counts what it took. */
static bool parse_one(struct options *o, unsigned command, int left, char **argv, int *used,
                      struct error *err)
{
    const char *word = argv[0], *equals = strncmp(word, "--", 2) == 0 ? strchr(word, '=') : NULL;
    size_t len = equals ? (size_t)(equals - word) : strlen(word);
    const struct option *row = find_row(command, word, len);
    const char *value = equals ? equals + 1 : NULL;
    *used = 1;
    if (!row) {
        *used = foreign(left, argv, err);
        return *used > 0 || (*used == 0 && unknown_option(command, word, len, err));
    }
    if (strcmp(row->name, "help") == 0 && len > 2)
        o->help_all = true;
    if (row->kind == OPT_MAYBE && !value && (value = maybe_value(left, argv)) != NULL)
        *used = 2;
    if (!wants_value(row) && row->kind != OPT_MAYBE && value)
        return fail(err, ERR_USAGE, "option %.*s takes no value", (int)len, word);
    if (wants_value(row) && !value) {
        if (left < 2)
            return fail(err, ERR_USAGE, "option %s wants a value: %s", word, row->argument);
        value = argv[1];
        *used = 2;
    }
    return apply(o, row, value, err) || error_prefix(err, "option %.*s", (int)len, word);
}

/* --deterministic: every token goes the same way, alone, through kernels of one token, and an expert
 * is computed where the placement has it. (Any number of threads gives the same bits anyway.) */
static void compute_one_way(struct options *o)
{
    o->batch = 1;
    o->batch_list = (struct size_list){ .items = { 1 }, .n = 1 };
    o->draft = 1; /* off */
    o->gpu_experts = 0;
    o->gpu_experts_bytes = 0;
    o->gpu_experts_share = NAN;
}

bool options_parse(struct options *o, unsigned command, int argc, char **argv, struct error *err)
{
    const char *configured = o->model;
    bool only_positionals = false;
    int room = command == CMD_QUANTIZE ? MAX_POSITIONALS : 2;
    for (int i = 0, used = 1; i < argc; i += used) {
        used = 1;
        if (!only_positionals && strcmp(argv[i], "--") == 0) {
            only_positionals = true;
        } else if (only_positionals || argv[i][0] != '-' || !argv[i][1]) {
            if (o->n_positional == room)
                return fail(err, ERR_USAGE, "unexpected argument \"%s\"", argv[i]);
            o->positional[o->n_positional++] = argv[i];
        } else if (!parse_one(o, command, argc - i, argv + i, &used, err)) {
            return false;
        }
    }
    o->model_given = o->model != configured;
    if (o->record || command == CMD_REPLAY)
        o->deterministic = true;
    if (o->deterministic)
        compute_one_way(o);
    return true;
}

/* ---- help ------------------------------------------------------------------------------------ */

#define LEFT 31

static int help_columns(void)
{
    return max_of(min_of(100, term_columns()) - LEFT, 20);
}

/* `text` behind `used` columns of the first line, wrapped, later lines indented. */
static void wrap(struct buf *out, const char *text, int used)
{
    int right = help_columns();
    if (used >= LEFT) {
        buf_puts(out, "\n");
        used = 0;
    }
    buf_printf(out, "%*s", LEFT - used, "");
    for (int at = 0; *text;) {
        int word = (int)strcspn(text, " ");
        if (at && at + 1 + word > right) {
            buf_printf(out, "\n%*s", LEFT, "");
            at = 0;
        }
        buf_printf(out, "%s%.*s", at ? " " : "", word, text);
        at += word + (at ? 1 : 0);
        text += word;
        text += strspn(text, " ");
    }
    buf_puts(out, "\n");
}

static void help_row(struct buf *out, const struct option *row, bool all)
{
    char left[80], text[512];
    snprintf(left, sizeof left, "  %s%s--%s%s%s", row->brief ? row->brief : "",
             row->brief ? ", " : "    ", row->name, row->argument ? " " : "",
             row->argument ? row->argument : "");
    snprintf(text, sizeof text, row->fallback && all ? "%s (default: %s)" : "%s", row->help,
             row->fallback);
    buf_puts(out, left);
    char *more = strstr(text, "; ");
    if (!all && more && (int)utf8_count(str_of(text)) > help_columns())
        *more = 0; /* the short page has a line for what matters most */
    /* Columns, not bytes: every multi-byte character here is one column wide. */
    wrap(out, text, (int)utf8_count(str_of(left)));
}

void options_help(struct buf *out, unsigned command, bool all)
{
    bool bold = term_colour(STDOUT_FILENO);
    for (int group = 0; group < N_GROUPS; group++) {
        bool titled = false;
        for (int i = 0; i < n_option_rows; i++) {
            const struct option *row = &option_rows[i];
            if (row->group != (enum option_group)group || !(row->commands & command) ||
                !row->help || !(all || row->common))
                continue;
            if (!titled && all)
                buf_printf(out, bold ? "\n\033[1m%s\033[0m\n" : "\n%s\n",
                           option_group_title(row->group));
            titled = true;
            help_row(out, row, all);
        }
    }
}
