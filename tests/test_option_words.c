/* Options as words: all spellings, the environment and the file mean the same; help fits a screen;
 * flags of other programs get a note or a hint. What options do: test_options.c. */
#include "src/cli/repair.h"
#include "src/cli/width.h"
#include "tests/option_rig.h"

/* ---- spellings, environment, file ---- */

/* What a row has read, as text. */
static void value_text(const struct option *row, const struct options *o, char *text, size_t size)
{
    const void *field = (const char *)o + row->offset;
    const struct text_list *list = field;
    const struct size_list *sizes = field;
    switch (row->kind) {
    case OPT_FLAG: snprintf(text, size, "%d", *(const bool *)field); break;
    case OPT_COUNT: case OPT_CONST: case OPT_CHOICE:
        snprintf(text, size, "%d", *(const int *)field);
        break;
    case OPT_INT: case OPT_SIZE:
        snprintf(text, size, "%lld", (long long)*(const int64_t *)field);
        break;
    case OPT_REAL: snprintf(text, size, "%.17g", *(const double *)field); break;
    case OPT_TEXT: snprintf(text, size, "%s", *(const char *const *)field); break;
    case OPT_LIST: snprintf(text, size, "%d %s", list->n, list->n ? list->items[0] : ""); break;
    case OPT_SIZES: snprintf(text, size, "%d %lld", sizes->n, (long long)sizes->items[0]); break;
    case OPT_MAYBE: {
        const char *more = *(const char *const *)((const char *)o + row->offset2);
        snprintf(text, size, "%d %s", *(const bool *)field, more ? more : "");
        break;
    }
    case OPT_ACTION: case OPT_CUSTOM: /* whatever they set lies among these */
        snprintf(text, size, "%d %lld %lld %d %d %d %lld %lld %g %lld %d %g %u %lld", o->gpu,
                 (long long)o->gpu_layers, (long long)o->cpu_moe, o->think, o->act_f32, o->numa,
                 (long long)o->think_budget, (long long)o->gpu_experts, o->gpu_experts_share,
                 (long long)o->gpu_experts_bytes, o->n_bias, o->max_loss, o->isa,
                 (long long)o->vram_margin);
        break;
    }
}

/* The value by one way of saying it. */
static void read_by(const struct option *row, unsigned command, char **argv, int argc, char *text,
                    size_t size)
{
    struct options o;
    struct error err = { 0 };
    bool ok = options_init(&o, command, &err) && options_parse(&o, command, argc, argv, &err);
    snprintf(text, size, "%s", err.text);
    if (CHECK_MSG(ok, "--%s: %s", row->name, err.text))
        value_text(row, &o, text, size);
    options_release(&o);
}

static void compare_ways(const struct option *row, unsigned command, char *value)
{
    char longest[64], by_long[1024], other[1024], name[64] = "TANDEM_", config[800];
    char *argv[2] = { longest, value };
    int argc = row->argument && value ? 2 : 1;
    snprintf(longest, sizeof longest, "--%s", row->name);
    read_by(row, command, argv, argc, by_long, sizeof by_long);
    for (int which = 0; which < 2; which++) {
        const char *at = which ? row->also : row->brief;
        for (; at && *at; at += strspn(at, " ")) {
            char word[64];
            size_t len = strcspn(at, " ");
            snprintf(word, sizeof word, "%.*s", (int)len, at);
            argv[0] = word;
            read_by(row, command, argv, argc, other, sizeof other);
            CHECK_MSG(strcmp(by_long, other) == 0, "%s: %s, --%s: %s", word, other, row->name,
                      by_long);
            at += len;
        }
    }
    if (strcmp(row->name, "help") == 0 || strcmp(row->name, "version") == 0)
        return;
    const char *said = argc == 2 ? value : row->kind == OPT_MAYBE ? NULL : "on";
    if (!said)
        return;
    for (size_t i = 0, n = strlen(name); row->name[i] && n + 1 < sizeof name; i++, n++)
        name[n] = row->name[i] == '-' ? '_' : (char)(row->name[i] & ~32);
    setenv(name, said, 1);
    read_by(row, command, NULL, 0, other, sizeof other);
    unsetenv(name);
    CHECK_MSG(strcmp(by_long, other) == 0, "%s=%s: %s, --%s: %s", name, said, other, row->name,
              by_long);
    snprintf(config, sizeof config, "%s = %s\n", row->name, said);
    put(own, "config/tandem/config", config);
    read_by(row, command, NULL, 0, other, sizeof other);
    put(own, "config/tandem/config", "");
    CHECK_MSG(strcmp(by_long, other) == 0, "configured: %s, --%s: %s", other, row->name, by_long);
}

static void check_ways(void)
{
    char path[128], line[2000];
    const char *words[MAX_WORDS];
    new_folder();
    set_home(false);
    snprintf(path, sizeof path, "%s/config", own);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/config/tandem", own);
    mkdir(path, 0700);
    check_case("all spellings, the environment and the configuration mean the same");
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        char command[16];
        snprintf(command, sizeof command, "%.*s", (int)strcspn(trials[i].commands, " "),
                 trials[i].commands);
        unsigned bit = command_at(command_number(command))->bit;
        for (const struct effect *e = trials[i].effects; e->option; e++) {
            const char *value = NULL;
            int row = row_of(e->option, bit);
            expand(trials[i].line, command, line, sizeof line);
            cut(line, command, words);
            if (row >= 0 && without(&option_rows[row], words, &value) > 0)
                compare_ways(&option_rows[row], bit, (char *)value);
        }
    }
}

/* ---- help ---- */

static int widest(const char *text)
{
    int most = 0;
    for (; *text; text += *text == '\n') {
        size_t len = strcspn(text, "\n");
        int n = (int)utf8_count((struct str){ text, len });
        most = n > most ? n : most;
        text += len;
    }
    return most;
}

static int lines_of(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void check_help(void)
{
    setenv("COLUMNS", "80", 1);
    check_case("-h of each command fits 80 x 24, --help has every option");
    for (int i = 0; command_at(i); i++) {
        const struct command *c = command_at(i);
        struct buf brief = { 0 }, all = { 0 };
        help_command(&brief, c, false);
        help_command(&all, c, true);
        CHECK_MSG(lines_of(buf_str(&brief).data) <= 24, "tandem %s -h has %d lines", c->name,
                  lines_of(buf_str(&brief).data));
        CHECK_MSG(widest(buf_str(&brief).data) <= 80 && widest(buf_str(&all).data) <= 80,
                  "tandem %s: -h has %d columns, --help %d", c->name, widest(buf_str(&brief).data),
                  widest(buf_str(&all).data));
        for (int row = 0; row < n_option_rows; row++) {
            char word[64];
            const struct option *o = &option_rows[row];
            snprintf(word, sizeof word, "--%s%s", o->name, o->argument ? " " : "");
            if ((o->commands & c->bit) && o->help)
                CHECK_MSG(strstr(buf_str(&all).data, word), "tandem %s --help lacks %s", c->name,
                          word);
        }
        buf_release(&brief);
        buf_release(&all);
    }
    unsetenv("COLUMNS");
}

/* ---- flags of other programs ---- */

static void check_foreign(void)
{
    check_case("flags of other programs: a note or a hint, in at most three lines");
    for (int i = 0; i < n_foreign_options; i++) {
        const struct foreign_option *f = &foreign_options[i];
        const char *words[MAX_WORDS] = { "run", f->name };
        char path[160];
        size_t n = 0;
        words[2] = f->takes == ALONE ? "-h" : "1";
        words[3] = f->takes == ALONE ? NULL : "-h";
        new_folder();
        int code = run_words(words, NULL, false);
        snprintf(path, sizeof path, "%s/err", own);
        char *err = check_read_file(path, &n);
        CHECK_MSG(code == (f->habit ? 0 : 2), "%s: code %d", f->name, code);
        const char *verdict = f->habit ? "no effect" : "not one of ours";
        CHECK_MSG(err && strstr(err, f->text) && strstr(err, verdict) && lines_of(err) <= 3, "%s: %s",
                  f->name, err);
        free(err);
    }
}

int main(void)
{
    if (!option_rig_open())
        return 1;
    width_use_utf8();
    check_help();
    check_foreign();
    check_ways();
    option_rig_close();
    return check_finish();
}
