#include "src/cli/line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <readline/readline.h>
#include <readline/history.h>

#include "src/cli/editor.h"
#include "src/cli/keys.h"
#include "src/cli/paste.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"

#define MAX_HISTORY 1000
#define MAX_ENTRY 16384

/* Readline calls back without a context: one reader per process. */
static struct {
    struct line_hooks hooks;
    struct line_offer offer; /* for the word being completed */
    char *line; /* what the callback got; malloc'ed by readline */
    bool done;
    struct buf again; /* what the next line begins with */
    int n_loaded; /* history entries that came from the file */
} reader;

static char *next_word(const char *start, int state)
{
    static int at;
    if (state == 0)
        at = 0;
    while (reader.offer.words[at]) {
        const char *word = reader.offer.words[at++];
        if (strncmp(word, start, strlen(start)) == 0)
            return strdup(word);
    }
    return NULL;
}

static char **complete(const char *start, int from, int to)
{
    (void)to;
    reader.offer = (struct line_offer){ 0 };
    if (reader.hooks.offer)
        reader.hooks.offer(reader.hooks.ctx, rl_line_buffer, from, &reader.offer);
    /* Never offer file names in the middle of a sentence. */
    rl_attempted_completion_over = !reader.offer.files;
    return reader.offer.words ? rl_completion_matches(start, next_word) : NULL;
}

/* Alt-Enter: a new line inside the message. */
static int insert_newline(int count, int key)
{
    (void)count, (void)key;
    rl_insert_text("\n");
    return 0;
}

/* ---- keys of our own ------------------------------------------------------------------------- */

/* Readline's way to the keys that wait; see keys.h. It asks for one that has not come yet where a
 * command wants another key: Ctrl-C then ends that command, as Ctrl-G does. */
static int get_key(FILE *from)
{
    (void)from;
    while (!keys_waiting()) {
        if (signals_leave())
            return EOF;
        if (signals_cancelled())
            return ABORT_CHAR; /* readline gives up what it asks; line_read does the rest */
        if (signals_wait(STDIN_FILENO) && !keys_fill())
            return EOF;
    }
    return keys_next();
}

static int key_waits(void)
{
    keys_poll();
    return keys_waiting();
}

/* Into the line at the cursor; a long text as its mark. */
static void insert(struct str text)
{
    char mark[PASTE_MARK_SIZE];
    if (paste_is_long(text) && paste_keep(text, mark))
        rl_insert_text(mark);
    else
        rl_insert_text(text.data);
}

/* Everything up to the mark that ends a paste. False: Ctrl-C, or the input ended. */
static bool read_paste(struct buf *text)
{
    static const char end[] = "\033[201~";
    const size_t n = sizeof end - 1;
    for (;;) {
        int c = keys_next();
        if (c < 0) {
            bool ready = signals_wait(STDIN_FILENO);
            if (ready ? !keys_fill() : signals_leave() || signals_cancelled())
                return false;
            continue;
        }
        char byte = c == '\r' ? '\n' : (char)c;
        buf_add(text, &byte, 1);
        if (byte == '~' && text->len >= n && memcmp(text->data + text->len - n, end, n) == 0) {
            text->data[text->len -= n] = 0;
            return !text->out_of_memory;
        }
    }
}

static int on_paste(int count, int key)
{
    struct buf text = { 0 };
    (void)count, (void)key;
    if (read_paste(&text))
        insert(buf_str(&text));
    buf_release(&text);
    return 0;
}

/* The shell or an editor used the terminal meanwhile: take it again, draw the line below what it
 * wrote. */
static void take_again(void)
{
    rl_deprep_terminal();
    rl_prep_terminal(1);
    rl_resize_terminal();
    rl_on_new_line();
    rl_forced_update_display();
}

static int on_edit(int count, int key)
{
    struct buf text = { 0 };
    struct error why = { 0 };
    (void)count, (void)key;
    paste_expand(&text, rl_line_buffer);
    rl_deprep_terminal();
    term_release();
    bool ok = editor_edit(&text, &why);
    term_offer();
    rl_prep_terminal(1);
    signals_new_input();
    if (ok) {
        rl_begin_undo_group();
        rl_delete_text(0, rl_end);
        rl_point = 0;
        insert(buf_str(&text));
        rl_end_undo_group();
    } else {
        fputc('\n', rl_outstream);
        fflush(rl_outstream);
        note_error("%s", why.text);
    }
    buf_release(&text);
    take_again();
    return 0;
}

/* Print something above the line. */
static void print_above(void (*print)(void *ctx))
{
    if (!print)
        return;
    rl_clear_visible_line();
    fflush(rl_outstream);
    print(reader.hooks.ctx);
    rl_on_new_line();
    rl_forced_update_display();
}

static int on_more(int count, int key)
{
    (void)count, (void)key;
    print_above(reader.hooks.more);
    return 0;
}

static void bind_keys(void)
{
    static const struct {
        const char *keys;
        rl_command_func_t *run;
    } rows[] = {
        { "\\e\\C-m", insert_newline }, { "\\e[200~", on_paste }, { "\\C-x\\C-e", on_edit },
        { "\\C-g", on_edit }, { "\\C-t", on_more },
    };
    static const char *const maps[] = { "emacs", "vi-insert", "vi-command" };
    for (size_t m = 0; m < ARRAY_LEN(maps); m++)
        for (size_t i = 0; i < ARRAY_LEN(rows); i++)
            rl_bind_keyseq_in_map(rows[i].keys, rows[i].run, rl_get_keymap_by_name(maps[m]));
}

void line_open(const struct line_hooks *hooks)
{
    reader.hooks = *hooks;
    if (!term_stdin())
        return;
    rl_readline_name = "tandem";
    rl_instream = stdin;
    rl_outstream = term_stdout() ? stdout : stderr;
    rl_catch_signals = 0;
    rl_catch_sigwinch = 0;
    rl_change_environment = 0;
    rl_attempted_completion_function = complete;
    rl_basic_word_break_characters = " \t\n";
    rl_completer_quote_characters = "\"'";
    rl_filename_quote_characters = " \t\n\"'"; /* a name with one of these is put in quotes */
    rl_initialize();
    bind_keys();
    rl_getc_function = get_key;
    rl_input_available_hook = key_waits;
    stifle_history(MAX_HISTORY);
}

/* Ask the terminal to put marks around pastes. Readline does so while it reads a line; during an
 * answer they are wanted, too, so that what is pasted then is one message at the next prompt. */
static void mark_pastes(bool on)
{
    const char *wanted = rl_variable_value("enable-bracketed-paste");
    if (!wanted || strcmp(wanted, "on") != 0 || !term_draws(fileno(rl_outstream)))
        return;
    fputs(on ? "\033[?2004h" : "\033[?2004l", rl_outstream);
    fflush(rl_outstream);
}

void line_close(void)
{
    if (term_stdin()) {
        mark_pastes(false);
        clear_history();
        rl_clear_history();
        keys_release();
        paste_release();
        buf_release(&reader.again);
    }
}

static void on_line(char *line)
{
    reader.line = line;
    reader.done = true;
    rl_callback_handler_remove();
}

/* Forget what was typed, as the shell does on Ctrl-C. */
static void clear_typed(void)
{
    rl_point = rl_end; /* below everything that was typed */
    rl_redisplay();
    fputs("^C", rl_outstream); /* before readline gives the terminal back, which goes to column 0 */
    rl_callback_sigcleanup();
    rl_free_line_state();
    rl_callback_handler_remove();
    fputs("\n", rl_outstream);
    fflush(rl_outstream);
}

/* Hand a key to readline. A mark that it damages goes altogether. */
static void take_key(void)
{
    struct buf before = { 0 };
    size_t from, to;
    bool marks = paste_any();
    if (marks)
        buf_puts(&before, rl_line_buffer);
    rl_callback_read_char();
    if (marks && !reader.done && !before.out_of_memory &&
        paste_broken(buf_str(&before).data, rl_line_buffer, &from, &to)) {
        rl_delete_text((int)from, (int)to);
        rl_point = (int)from;
        rl_redisplay();
    }
    buf_release(&before);
}

/* Readline from 8.1 on ends the line itself where it has asked for marks around pastes. */
static void end_of_input(void)
{
    const char *wanted = rl_variable_value("enable-bracketed-paste");
    if (rl_readline_version < 0x0801 || !wanted || strcmp(wanted, "on") != 0)
        fputc('\n', rl_outstream);
    fflush(rl_outstream);
}

void line_again(struct str text)
{
    buf_clear(&reader.again);
    buf_add(&reader.again, text.data, text.len);
}

enum line_result line_read(const char *prompt, struct buf *text, struct error *err)
{
    enum line_result result = LINE_TEXT;
    if (!term_stdin())
        return line_plain(prompt, text, err);
    buf_clear(text);
    reader.done = false;
    reader.line = NULL;
    term_offer();
    rl_callback_handler_install(prompt, on_line);
    if (reader.again.len) {
        insert(buf_str(&reader.again));
        rl_redisplay();
        buf_clear(&reader.again);
    }
    while (!reader.done) {
        bool asked = signals_cancelled() || signals_leave(); /* a paste may have seen it first */
        bool key = keys_waiting() || (!asked && signals_wait(STDIN_FILENO));
        bool end = key && !keys_waiting() && !keys_fill();
        key = end || keys_waiting(); /* Ctrl-C may have taken what was there */
        if (signals_continued())
            take_again();
        if (signals_resized())
            rl_resize_terminal();
        if (signals_status())
            print_above(reader.hooks.status);
        if (key) {
            take_key();
        } else if (signals_leave()) {
            rl_callback_handler_remove();
            result = LINE_LEAVE;
            break;
        } else if (signals_cancelled()) {
            signals_rearm();
            buf_add(text, rl_line_buffer, (size_t)rl_end);
            clear_typed();
            result = LINE_CLEARED;
            break;
        }
    }
    term_hold();
    if (result != LINE_TEXT)
        return result;
    if (!reader.line) {
        end_of_input();
        return LINE_END;
    }
    paste_expand(text, reader.line);
    free(reader.line);
    mark_pastes(true);
    return buf_ok(text, err) ? LINE_TEXT : LINE_FAILED;
}

/* ---- history --------------------------------------------------------------------------------- */

/* Drop older entries equal to `text`, then add it. */
static void add_once(const char *text)
{
    for (int i = history_length - 1; i >= 0; i--) {
        HIST_ENTRY *entry = history_get(history_base + i);
        if (entry && strcmp(entry->line, text) == 0)
            free_history_entry(remove_history(i));
    }
    add_history(text);
}

/* In the file a backslash is "\\" and a newline "\n". Undone in place. */
static void unescape(char *text)
{
    char *to = text;
    for (; *text; text++) {
        if (*text == '\\' && text[1]) {
            text++;
            *to++ = *text == 'n' ? '\n' : *text;
        } else {
            *to++ = *text;
        }
    }
    *to = 0;
}

static void escape(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\n' || *text == '\\')
            buf_puts(out, *text == '\n' ? "\\n" : "\\\\");
        else
            buf_add(out, text, 1);
    }
    buf_puts(out, "\n");
}

/* The file's bytes; a file that is not there yet is empty. */
static bool history_bytes(const char *path, struct buf *text)
{
    return (access(path, F_OK) != 0 && errno == ENOENT) || buf_read_file(text, path, NULL);
}

/* Add the lines of an escaped text, which is taken apart. */
static void add_lines(struct buf *text)
{
    for (char *line = text->data, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        unescape(line);
        if (*line)
            add_once(line);
    }
}

void line_history_load(const char *path)
{
    struct buf text = { 0 };
    if (term_stdin() && history_bytes(path, &text))
        add_lines(&text);
    reader.n_loaded = history_length;
    buf_release(&text);
}

void line_history_add(const char *text)
{
    if (!term_stdin() || !*text || *text == ' ' || *text == '\t' || strlen(text) > MAX_ENTRY)
        return;
    int before = history_length;
    add_once(text);
    /* An old entry that moved to the end now counts as new, as does a full history that shifted. */
    if (history_length <= before && reader.n_loaded > 0)
        reader.n_loaded--;
}

/* Write `text` to path by way of a temporary file of mode 0600. */
static void replace_file(const char *path, const struct buf *text)
{
    char temporary[4200];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    struct str s = buf_str(text);
    bool ok = write(fd, s.data, s.len) == (ssize_t)s.len;
    ok = close(fd) == 0 && ok;
    if (!ok || rename(temporary, path) != 0)
        unlink(temporary);
}

void line_history_save(const char *path)
{
    if (!term_stdin() || history_length <= reader.n_loaded)
        return;
    struct buf fresh = { 0 }, all = { 0 };
    for (int i = reader.n_loaded; i < history_length; i++)
        escape(&fresh, history_get(history_base + i)->line);
    /* Another chat may have written meanwhile: its entries come first, ours behind them. A file
     * that cannot be read now is left alone. */
    if (history_bytes(path, &all) && !all.out_of_memory && !fresh.out_of_memory) {
        clear_history();
        add_lines(&all);
        reader.n_loaded = history_length;
        add_lines(&fresh);
        buf_clear(&all);
        for (int i = 0; i < history_length; i++)
            escape(&all, history_get(history_base + i)->line);
        if (!all.out_of_memory)
            replace_file(path, &all);
    }
    buf_release(&fresh);
    buf_release(&all);
}

const char *line_library(void)
{
    static char name[32];
    snprintf(name, sizeof name, "GNU readline %s", rl_library_version);
    return name;
}
