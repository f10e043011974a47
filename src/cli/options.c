/* The command line, the help that the same table gives, and options that change while running. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "src/cli/command.h"
#include "src/cli/option_value.h"
#include "src/cli/repair.h"
#include "src/cli/term.h"
#include "src/text/utf8.h"

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

/* The short name that `word` begins with, its value behind it without a blank: "-n2", "-p=hi". */
static const char *joined_name(unsigned command, const char *word)
{
    const char *best = NULL;
    for (int i = 0; i < n_option_rows; i++) {
        const char *brief = option_rows[i].brief;
        size_t len = brief && (option_rows[i].commands & command) ? strlen(brief) : 0;
        bool joined = len && strncmp(word, brief, len) == 0 &&
                      (word[len] == '=' || isdigit((unsigned char)word[len]));
        if (joined && option_wants_value(&option_rows[i]) && (!best || len > strlen(best)))
            best = brief;
    }
    return best;
}

static bool unknown_option(unsigned command, const char *word, size_t len, struct error *err)
{
    char text[64], longs[ARRAY_LEN(((struct options *)0)->bias) * 2][40];
    const char *names[ARRAY_LEN(longs) * 2];
    int n = 0, n_longs = 0;
    snprintf(text, sizeof text, "%.*s", (int)min_of(len, sizeof text - 1), word);
    const struct option *elsewhere = find_row(~0u, word, len);
    if (elsewhere)
        return fail(err, ERR_USAGE, "option %s belongs to tandem %s", text,
                    command_of(elsewhere->commands));
    const char *brief = joined_name(command, word);
    if (brief) {
        const char *value = word + strlen(brief);
        return fail(err, ERR_USAGE, "unknown option %.60s (did you mean %s %.60s?)", word, brief,
                    value + (*value == '='));
    }
    for (int i = 0; i < n_option_rows && n_longs < (int)ARRAY_LEN(longs); i++) {
        if (!(option_rows[i].commands & command))
            continue;
        snprintf(longs[n_longs], sizeof longs[n_longs], "--%s", option_rows[i].name);
        names[n++] = longs[n_longs++];
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
    if (!option_wants_value(row) && row->kind != OPT_MAYBE && value)
        return fail(err, ERR_USAGE, "option %.*s takes no value", (int)len, word);
    if (option_wants_value(row) && !value) {
        if (left < 2)
            return fail(err, ERR_USAGE, "option %s wants a value: %s", word, row->argument);
        value = argv[1];
        *used = 2;
    }
    return option_apply(o, row, value, err) || error_prefix(err, "option %.*s", (int)len, word);
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
    int room = command == CMD_SESSIONS ? MAX_POSITIONALS : command == CMD_QUANTIZE ? 4 : 2;
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

void options_release(struct options *o)
{
    arena_release(&o->arena);
    memset(o, 0, sizeof *o);
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
        bool ok = row->kind != OPT_FLAG ? option_apply(o, row, value, err)
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
