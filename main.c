/* tandem: choose the command, run it, turn what happened into an exit code.
 *
 *   0 ok   1 failed while running   2 wrong usage   3 file missing, damaged or unsupported
 *   4 does not fit   5 no usable device   6 a check failed   7 a mistake of ours
 *   130, 143, ... stopped by a signal   141 the reader of stdout went away */
#include <sys/resource.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/cli/command.h"
#include "src/cli/manual.h"
#include "src/cli/pager.h"
#include "src/cli/paths.h"
#include "src/cli/record.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/cli/version.h"

#define EXIT_BROKEN_PIPE 141

#define STACK_BYTES (1u << 20) /* what is asked for, and what is enough for everything here */
#define STACK_LEAST (256u << 10)

static void on_log(void *ctx, enum log_level level, const char *line)
{
    const struct options *o = ctx;
    static const char *const words[] = { "warning", "note", "detail" };
    record_line("%s: %s", words[level], line);
    if (level == LOG_WARNING)
        note("tandem: warning: %s", line);
    else if (level == LOG_NOTE || o->verbose)
        note("tandem: %s", line);
}

/* A word that is no command. */
static bool unknown_command(const char *word, struct error *err)
{
    const char *near = command_nearest(word);
    if (near)
        return fail(err, ERR_USAGE, "unknown command \"%s\" (did you mean %s?)", word, near);
    if (strchr(word, ' '))
        return fail(err, ERR_USAGE, "unknown command \"%s\" (a prompt goes to: tandem run \"…\")",
                    word);
    return fail(err, ERR_USAGE, "unknown command \"%s\" (tandem help lists them)", word);
}

static bool print_help(const struct command *c, bool all, struct error *err)
{
    struct buf text = { 0 };
    if (c)
        help_command(&text, c, all);
    else
        help_overview(&text);
    bool ok = buf_ok(&text, err) && (all ? pager_show(&text, err)
                                         : out_write(text.data, text.len, err));
    buf_release(&text);
    return ok;
}

static bool print_version(struct error *err)
{
    struct buf text = { 0 };
    version_print(&text);
    bool ok = buf_ok(&text, err) && out_write(text.data, text.len, err);
    buf_release(&text);
    return ok;
}

/* tandem help [COMMAND] [--man], tandem help --completions SHELL, tandem help --commands */
static bool run_help(int argc, char **argv, struct error *err)
{
    const struct command *c = NULL;
    struct buf text = { 0 };
    bool man = false, ok = true, shell = false;
    for (int i = 0; i < argc && ok; i++) {
        if (strcmp(argv[i], "--man") == 0) {
            man = true;
        } else if (strcmp(argv[i], "--completions") == 0) {
            shell = true;
            ok = completions_print(&text, i + 1 < argc ? argv[++i] : "", err);
        } else if (strcmp(argv[i], "--commands") == 0) {
            shell = true;
            for (int k = 0; command_at(k); k++)
                buf_printf(&text, "%s\n", command_at(k)->name);
        } else if (strcmp(argv[i], "help") != 0) {
            c = command_find(argv[i]);
            ok = c || unknown_command(argv[i], err);
        }
    }
    if (ok && !man && !shell)
        return print_help(c, true, err);
    if (ok && man)
        manual_page(&text, c);
    ok = ok && buf_ok(&text, err) && out_write(text.data, text.len, err);
    buf_release(&text);
    return ok;
}

/* A model of the configuration? A file of settings with a mistake is reported by the command. */
static bool is_configured_model(const char *word)
{
    struct options *o = mem_alloc(1, sizeof *o, "settings", NULL);
    struct error ignored = { 0 };
    bool found = o && options_init(o, CMD_CHAT, &ignored) && options_configured_model(o, word);
    if (o)
        options_release(o);
    mem_free(o);
    return found;
}

/* The command: that of a program called tandem-COMMAND, else the first word; *skip counts the words
 * before its arguments. Chat is meant when a model, an option or nothing stands first. */
static const struct command *choose(int argc, char **argv, int *skip, struct error *err)
{
    const char *word = argc > 1 ? argv[1] : NULL;
    const struct command *own = argc > 0 ? command_of_program(argv[0]) : NULL;
    const struct command *c = own || !word ? own : command_find(word);
    *skip = c && !own ? 2 : 1;
    if (c)
        return c;
    if (!word || word[0] == '-' || is_model_word(word) || is_configured_model(word))
        return command_find("chat");
    unknown_command(word, err);
    return NULL;
}

/* Do the arguments only ask what there is? That is told also to whom the settings are in the way. */
static bool asks_to_be_told(int argc, char **argv)
{
    static const char *const words[] = { "-h", "--help", "-V", "--version" };
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        for (size_t k = 0; k < ARRAY_LEN(words); k++)
            if (strcmp(argv[i], words[k]) == 0)
                return true;
    return false;
}

static bool dispatch(int argc, char **argv, struct options *o, struct error *err)
{
    int skip;
    if (argc > 1 && strcmp(argv[1], "help") == 0)
        return run_help(argc - 2, argv + 2, err);
    const struct command *c = choose(argc, argv, &skip, err);
    if (!c)
        return false;
    bool named = skip == 2 || command_of_program(argv[0]);
    log_set_sink(on_log, o);
    struct error unset = { 0 };
    bool set = options_init(o, c->bit, &unset);
    if ((set || asks_to_be_told(argc, argv)) &&
        !options_parse(o, c->bit, argc - skip, argv + skip, err))
        return false;
    term_init((enum colour_mode)o->colour, o->quiet ? QUIET : o->verbose ? VERBOSE : NORMAL);
    if (o->version)
        return print_version(err);
    if (o->help)
        return print_help(named ? c : NULL, o->help_all, err);
    if (!set)
        return fail(err, unset.code, "%s", unset.text);
    return (!o->log || record_open(o->log, c->name, err)) && c->run(o, err);
}

/* The stack of this thread grows as far as the limit allows, which may be raised while it runs. */
static bool have_stack(struct error *err)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= STACK_BYTES)
        return true;
    limit.rlim_cur = min_of(limit.rlim_max, (rlim_t)STACK_BYTES);
    setrlimit(RLIMIT_STACK, &limit);
    return limit.rlim_cur >= STACK_LEAST ||
           fail(err, ERR_RUN, "the limit of %llu KiB is too small for a stack (ulimit -s 1024 raises it)",
                (unsigned long long)limit.rlim_cur / 1024);
}

int main(int argc, char **argv)
{
    struct options options = { 0 };
    struct error err = { 0 };
    if (!term_claim_descriptors())
        return ERR_RUN;
    signals_init();
    term_init(COLOUR_AUTO, NORMAL);
    bool ok = have_stack(&err) && dispatch(argc, argv, &options, &err);
    int code = ok ? 0 : err.code;
    if (out_broken())
        code = EXIT_BROKEN_PIPE;
    else if (signals_exit_code() && (ok || code == ERR_INTERRUPTED))
        code = signals_exit_code();
    else if (!ok && code != ERR_INTERRUPTED) {
        note_failure(&err);
    }
    record_close(ok ? NULL : &err, code);
    options_release(&options);
    return code;
}
