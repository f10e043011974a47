#include "src/cli/manual.h"

#include <stdio.h>

#include "src/cli/chat.h"
#include "src/cli/option_table.h"
#include "src/cli/version.h"
#include "src/text/utf8.h"

/* Text for roff: no control lines, hyphens that can be copied, letters beyond ASCII by their number. */
static void add_text(struct buf *out, const char *text)
{
    struct str rest = str_of(text);
    uint32_t code;
    if (*text == '.' || *text == '\'')
        buf_puts(out, "\\&");
    while (rest.len > 0) {
        size_t n = utf8_decode(rest, &code);
        if (code == '\\')
            buf_puts(out, "\\e");
        else if (code == '"') /* which would group the arguments of a macro */
            buf_puts(out, "\\(dq");
        else if (code == '-')
            buf_puts(out, "\\-");
        else if (code >= 128)
            buf_printf(out, "\\[u%04X]", code);
        else
            buf_add(out, rest.data, 1);
        rest = (struct str){ rest.data + n, rest.len - n };
    }
}

static void section(struct buf *out, const char *title)
{
    buf_printf(out, ".SH %s\n", title);
}

static void paragraph(struct buf *out, const char *text)
{
    buf_puts(out, ".PP\n");
    add_text(out, text);
    buf_puts(out, "\n");
}

/* One for each line. */
static void paragraphs(struct buf *out, const char *lines)
{
    for (const char *at = lines; *at; at += *at == '\n') {
        size_t len = strcspn(at, "\n");
        struct buf line = { 0 };
        buf_add(&line, at, len);
        paragraph(out, buf_str(&line).data);
        buf_release(&line);
        at += len;
    }
}

static void item(struct buf *out, const char *term, const char *text)
{
    buf_puts(out, ".TP\n.B ");
    add_text(out, term);
    buf_puts(out, "\n");
    add_text(out, text);
    buf_puts(out, "\n");
}

/* Lines as they are; a backslash of the examples is text. */
static void verbatim(struct buf *out, const char *lines)
{
    buf_puts(out, ".PP\n.nf\n");
    for (const char *at = lines; *at;) {
        int n = (int)strcspn(at, "\n");
        char line[256];
        n = min_of(n, (int)sizeof line - 1);
        memcpy(line, at, (size_t)n);
        line[n] = 0;
        add_text(out, line);
        buf_puts(out, "\n");
        at += strcspn(at, "\n");
        at += *at == '\n';
    }
    buf_puts(out, ".fi\n");
}

/* ---- options ---- */

static void add_option(struct buf *out, const struct option *row)
{
    buf_puts(out, ".TP\n");
    if (row->brief) {
        buf_puts(out, "\\fB");
        add_text(out, row->brief);
        buf_puts(out, "\\fR, ");
    }
    buf_puts(out, "\\fB\\-\\-");
    add_text(out, row->name);
    buf_puts(out, "\\fR");
    if (row->argument) {
        buf_puts(out, " \\fI");
        add_text(out, row->argument);
        buf_puts(out, "\\fR");
    }
    buf_puts(out, "\n");
    add_text(out, row->help);
    if (row->fallback) {
        buf_puts(out, ". Default: ");
        add_text(out, row->fallback);
    }
    if (row->also) {
        buf_puts(out, ". Also spelled ");
        add_text(out, row->also);
    }
    buf_puts(out, ".\n");
}

static void add_options(struct buf *out, unsigned command)
{
    for (int group = 0; group < N_GROUPS; group++) {
        bool titled = false;
        for (int i = 0; i < n_option_rows; i++) {
            const struct option *row = &option_rows[i];
            if (row->group != (enum option_group)group || !(row->commands & command) || !row->help)
                continue;
            if (!titled)
                buf_printf(out, ".SS %s\n", option_group_title(row->group));
            titled = true;
            add_option(out, row);
        }
    }
}

/* ---- what only a chat has ---- */

static void add_chat(struct buf *out)
{
    static const char *const keys[][2] = {
        { "Enter", "sends the message." },
        { "Alt-Enter", "begins a new line in it. A paste is one message, however many lines it has." },
        { "\"\"\"", "on a line by itself opens a block of lines, and closes it." },
        { "Ctrl-G, Ctrl-X Ctrl-E", "the message in $VISUAL, $EDITOR or vi." },
        { "Ctrl-R", "searches earlier messages." },
        { "Tab", "completes commands, their words, and names of files." },
        { "Ctrl-T", "thinking in full, or as one line." },
        { "Ctrl-C", "stops an answer and keeps its text; while a model loads or a prompt is read, "
                    "cancels that; at the prompt, clears the line. During thinking it asks: a answers "
                    "now, Enter goes on, Ctrl-C stops. Twice within two seconds, it leaves." },
        { "Ctrl-D", "on an empty line leaves." },
        { "Ctrl-Z", "stops the program; fg brings line or answer back." },
    };
    const char *argument, *help, *name;
    section(out, "KEYS");
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        item(out, keys[i][0], keys[i][1]);
    paragraph(out, "Other keys are those of readline(3), from ~/.inputrc.");
    section(out, "COMMANDS IN A CHAT");
    for (int i = 0; (name = chat_command_about(i, &argument, &help)) != NULL; i++) {
        char term[64];
        snprintf(term, sizeof term, "%s%s%s", name, argument && *argument ? " " : "",
                 argument ? argument : "");
        if (help)
            item(out, term, help);
    }
    paragraph(out, "A line that begins with // is sent with one slash less. What is no command is "
                   "never sent to the model.");
}

/* ---- what all pages share ---- */

static void add_surroundings(struct buf *out)
{
    section(out, "FILES");
    item(out, "~/.config/tandem/config",
         "Settings, one \"name = value\" a line, named as the long options; below [models], names for "
         "model files. $XDG_CONFIG_HOME moves it.");
    item(out, ".tandem",
         "The same for one folder, read when it is the current one. It says how models run and "
         "answer, not what is written where, and is stronger than the user's file.");
    item(out, "/etc/xdg/tandem/config",
         "The same for all users, weaker than the others. $XDG_CONFIG_DIRS moves it.");
    item(out, "~/.local/state/tandem/",
         "Conversations and typed lines, readable by their owner only. $XDG_STATE_HOME moves it.");
    item(out, "~/.cache/tandem/", "What was measured of this machine. $XDG_CACHE_HOME moves it.");
    section(out, "ENVIRONMENT");
    item(out, "TANDEM_NAME",
         "The value of option --name, for example TANDEM_CTX_SIZE=8192. The command line is "
         "stronger, the files above are weaker; tandem config show tells what counts.");
    item(out, "NO_COLOR, TERM, COLUMNS, VISUAL, EDITOR, PAGER, TMPDIR, CUDA_VISIBLE_DEVICES", "As usual.");
    section(out, "EXIT STATUS");
    static const char *const codes[][2] = {
        { "0", "done" }, { "1", "failed while running" }, { "2", "wrong usage" },
        { "3", "a file is missing, damaged or not supported" },
        { "4", "does not fit into memory" }, { "5", "no usable device" },
        { "6", "a check failed: inspect --verify, eval --max-..., bench --compare" },
        { "7", "a mistake of tandem's own: please report it" },
        { "130, 143", "stopped by Ctrl-C, by SIGTERM" },
        { "141", "the reader of standard output went away" },
    };
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        item(out, codes[i][0], codes[i][1]);
}

static void add_see_also(struct buf *out, const struct command *c)
{
    section(out, "SEE ALSO");
    const char *comma = "";
    if (c)
        buf_puts(out, ".BR tandem (1)"), comma = ",\n";
    for (int i = 0; command_at(i); i++) {
        if (command_at(i) == c)
            continue;
        buf_printf(out, "%s.BR tandem\\-%s (1)", comma, command_at(i)->name);
        comma = ",\n";
    }
    buf_puts(out, "\n");
}

static void add_head(struct buf *out, const struct command *c, const char *summary)
{
    buf_printf(out, ".TH TANDEM%s%s 1 \"\" \"tandem %s\" \"User Commands\"\n", c ? "\\-" : "",
               c ? c->name : "", version_number());
    section(out, "NAME");
    buf_printf(out, "tandem%s%s \\- ", c ? "\\-" : "", c ? c->name : "");
    add_text(out, summary);
    buf_puts(out, "\n");
    section(out, "SYNOPSIS");
    buf_puts(out, ".B ");
    add_text(out, c ? c->usage : "tandem [COMMAND] [MODEL] [options]");
    buf_puts(out, "\n");
}

void manual_page(struct buf *out, const struct command *c)
{
    add_head(out, c, c ? c->summary : "run DeepSeek-family models on your machine");
    section(out, "DESCRIPTION");
    if (c) {
        paragraphs(out, c->about);
        section(out, "OPTIONS");
        add_options(out, c->bit);
        if (c->bit == CMD_CHAT)
            add_chat(out);
        section(out, "EXAMPLES");
        verbatim(out, c->examples);
    } else {
        paragraph(out, "tandem runs mixture-of-experts models that are larger than the GPU: "
                       "attention, router and shared experts on the GPU, the routed experts in "
                       "main memory, computed by the CPU where they lie. Without a GPU the CPU "
                       "does all of it. A model is a GGUF file, the first part of a split one, a "
                       "folder that holds one, or a name from the configuration.");
        section(out, "COMMANDS");
        for (int i = 0; command_at(i); i++)
            item(out, command_at(i)->name, command_at(i)->summary);
        item(out, "help", "the options of a command; --man: its manual page; --completions SHELL");
    }
    add_surroundings(out);
    add_see_also(out, c);
}
