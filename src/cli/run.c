/* tandem run: one prompt in, its answer out; stdout carries the answer and nothing else. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/command.h"
#include "src/cli/heat.h"
#include "src/cli/paths.h"
#include "src/cli/run.h"
#include "src/cli/term.h"

/* ---- the prompt ------------------------------------------------------------------------------ */

/* Put a part behind what is there, a blank line between; raw prompts are joined as they are. */
static void add_part(struct buf *prompt, struct str part, bool raw, int *n_parts)
{
    if (!raw)
        while (part.len && part.data[part.len - 1] == '\n')
            part.len--;
    if (*n_parts > 0 && !raw)
        buf_puts(prompt, "\n\n");
    buf_add(prompt, part.data, part.len);
    ++*n_parts;
}

/* Is there something to read on stdin besides a terminal? A closed or empty one gives nothing. */
static bool stdin_is_input(void)
{
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0 &&
           (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode));
}

static bool read_stdin(struct buf *text, struct error *err)
{
    if (term_stdin())
        note("reading the prompt from the terminal: end it with Ctrl-D");
    else
        buf_note_waiting(STDIN_FILENO, "the rest of the prompt on standard input (</dev/null if there "
                         "is none)");
    return buf_read_fd(text, STDIN_FILENO, "standard input", err);
}

/* -p or the positional, then stdin, then the files. */
static bool gather_prompt(const struct options *o, struct buf *prompt, struct error *err)
{
    struct buf part = { 0 };
    int n_parts = 0;
    bool ok = true, stdin_named = false;
    if (o->prompt)
        add_part(prompt, str_of(o->prompt), o->raw, &n_parts);
    for (int i = 0; i < o->files.n; i++)
        stdin_named = stdin_named || strcmp(o->files.items[i], "-") == 0;
    bool from_terminal = term_stdin() && !o->prompt && o->files.n == 0 && !o->messages;
    if (!stdin_named && (from_terminal || (!term_stdin() && stdin_is_input()))) {
        ok = read_stdin(&part, err);
        if (ok && part.len)
            add_part(prompt, buf_str(&part), o->raw, &n_parts);
    }
    for (int i = 0; ok && i < o->files.n; i++) {
        buf_clear(&part);
        ok = buf_read_file(&part, o->files.items[i], err);
        if (ok)
            add_part(prompt, buf_str(&part), o->raw, &n_parts);
    }
    buf_release(&part);
    if (!ok || !buf_ok(prompt, err))
        return false;
    return n_parts > 0 || o->messages ||
           fail(err, ERR_USAGE, "no prompt: give -p TEXT, -f FILE, or text on standard input");
}

/* Options that contradict each other. */
static bool check_options(const struct options *o, struct error *err)
{
    if (o->raw && (o->tools || o->messages))
        return fail(err, ERR_USAGE, "--raw feeds the prompt as written: it goes with neither --tools "
                    "nor --messages");
    if (o->logprobs > 0 && !o->json && !o->jsonl && !o->batch_file)
        return fail(err, ERR_USAGE, "--logprobs goes with --json, --jsonl or --batch");
    if (o->batch_file && (o->prompt || o->files.n || o->messages || o->raw || o->jsonl))
        return fail(err, ERR_USAGE, "--batch has its prompts in its file: no prompt, -f, --messages, "
                    "--raw or --jsonl beside it");
    if (o->batch_file && o->record)
        return fail(err, ERR_USAGE, "--record keeps one answer: it does not go with --batch");
    bool wants_json = o->json || o->jsonl || o->batch_file || o->tools || o->messages || o->record;
    return (!wants_json || js_available(err)) && heat_check(o, err);
}

/* Folding is for a chat. In a file of settings, which chats share, it hides thinking here. */
static bool check_thinking(struct options *o, struct error *err)
{
    if (o->show_thinking != THINKING_FOLD)
        return true;
    int i = o->n_settings - 1;
    while (i >= 0 && strcmp(o->settings[i].name, "show-thinking") != 0)
        i--;
    if (i < 0 || strcmp(o->settings[i].value, "fold") != 0)
        return fail(err, ERR_USAGE, "option --show-thinking: wants one of full|off|stdout, got "
                    "\"fold\"");
    o->show_thinking = THINKING_HIDDEN;
    return true;
}

/* Load, answer one prompt or those of --batch, keep what is wanted. */
static bool answer(const struct options *o, const char *path, struct str prompt, struct error *err)
{
    struct loaded m = { 0 };
    static struct run_kept kept; /* large: it holds paths */
    struct output_file file = { .fd = -1 };
    kept.model_path = path;
    kept.record.fd = -1;
    bool ok = (o->batch_file ? run_batch_check(o, err)
                             : (!o->output || output_open(&file, o->output, err)) &&
                                   run_session_begin(&kept.session, o, err)) &&
              (!o->record || output_open_private(&kept.record, o->record, err)) &&
              loaded_open(&m, o, path, WANT_TEXT, UNSET, err) &&
              (!o->prefix_cache || prefix_cache_open(&kept.cache, o->prefix_cache, &m, err));
    if (ok && o->batch_file) {
        ok = run_batch(&m, o, &kept, err);
    } else if (ok) {
        struct run_prompt p = { .text = prompt };
        struct run_target target = { .file = o->output ? &file : NULL };
        ok = run_answer(&m, o, &p, &target, &kept, err);
    }
    ok = output_close(&file, ok, ok ? err : NULL) && ok;
    ok = output_close(&kept.record, ok, ok ? err : NULL) && ok;
    ok = heat_keep(m.engine, o, ok, err);
    prefix_cache_close(&kept.cache);
    run_session_end(&kept.session, false, &m, o, path, prompt, NULL, NULL);
    loaded_close(&m);
    return ok;
}

bool cmd_run(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    struct buf prompt = { 0 };
    bool ok = check_options(o, err) && check_thinking(o, err) &&
              resolve_model(o, !o->batch_file, path, sizeof path, err) &&
              (o->batch_file || gather_prompt(o, &prompt, err)) &&
              (o->dry_run ? run_dry : answer)(o, path, buf_str(&prompt), err);
    buf_release(&prompt);
    return ok;
}
