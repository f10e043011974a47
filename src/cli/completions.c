/* Shell completions: for each command its options, for each option its words or files. */
#include <stdio.h>

#include "src/cli/manual.h"
#include "src/cli/option_table.h"

static bool belongs(const struct option *row, const struct command *c)
{
    return (row->commands & c->bit) && row->help;
}

static bool takes_file(const struct option *row)
{
    return row->argument && (strstr(row->argument, "FILE") || strcmp(row->argument, "DIR") == 0);
}

/* The words of "auto|on|off" with `between` between; false when these are no words to choose from. */
static bool add_words(struct buf *out, const struct option *row, const char *between)
{
    bool listed = row->argument && strchr(row->argument, '|'); /* those that this command takes */
    const char *words = row->kind == OPT_CHOICE && !listed ? row->choices : row->argument;
    if (!words || !strchr(words, '|') || strpbrk(words, "%[ "))
        return false;
    for (const char *at = words; *at; at += *at == '|') {
        int n = (int)strcspn(at, "|");
        bool is_word = at[0] >= 'a' && at[0] <= 'z'; /* N and SIZE stand for others */
        if (is_word)
            buf_printf(out, "%.*s%s", n, at, between);
        at += n;
    }
    return true;
}

static void add_commands(struct buf *out)
{
    for (int i = 0; command_at(i); i++)
        buf_printf(out, "%s ", command_at(i)->name);
    buf_puts(out, "help");
}

/* ---- bash ---- */

static void bash_options(struct buf *out, const struct command *c)
{
    buf_printf(out, "        %s) options=\"", c->name);
    for (int i = 0; i < n_option_rows; i++)
        if (belongs(&option_rows[i], c))
            buf_printf(out, "%s%s--%s ", option_rows[i].brief ? option_rows[i].brief : "",
                       option_rows[i].brief ? " " : "", option_rows[i].name);
    buf_puts(out, "\" ;;\n");
}

static void bash_words(struct buf *out, const struct command *c)
{
    for (int i = 0; i < n_option_rows; i++) {
        struct buf words = { 0 };
        if (belongs(&option_rows[i], c) && add_words(&words, &option_rows[i], " "))
            buf_printf(out, "        %s:--%s) words=\"%s\" ;;\n", c->name, option_rows[i].name,
                       buf_str(&words).data);
        buf_release(&words);
    }
}

static void bash_print(struct buf *out)
{
    buf_puts(out, "# bash completion for tandem\n"
                  "_tandem() {\n"
                  "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                  "    local command=${COMP_WORDS[1]} options words\n"
                  "    case \" ");
    add_commands(out);
    buf_puts(out, " \" in\n"
                  "        *\" $command \"*) ;;\n"
                  "        *) command=chat ;;\n"
                  "    esac\n"
                  "    case $command in\n");
    for (int i = 0; command_at(i); i++)
        bash_options(out, command_at(i));
    buf_puts(out, "    esac\n"
                  "    case $command:$prev in\n");
    for (int i = 0; command_at(i); i++)
        bash_words(out, command_at(i));
    buf_puts(out, "    esac\n"
                  "    if [ \"$COMP_CWORD\" = 1 ] || [ \"$command\" = help ]; then\n"
                  "        words=\"");
    add_commands(out);
    buf_puts(out, "\"\n"
                  "        COMPREPLY=($(compgen -W \"$words\" -- \"$cur\") "
                  "$(compgen -f -- \"$cur\"))\n"
                  "    elif [ -n \"$words\" ]; then\n"
                  "        COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                  "    elif [[ $cur == -* ]]; then\n"
                  "        COMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n"
                  "    else\n"
                  "        COMPREPLY=($(compgen -f -- \"$cur\"))\n"
                  "    fi\n"
                  "}\n"
                  "complete -o filenames -F _tandem tandem\n");
}

/* ---- zsh ---- */

/* Within a quoted specification [ ] : and ' mean something. */
static void zsh_text(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            buf_puts(out, "'\\''");
        else if (strchr("[]:\\", *text))
            buf_printf(out, "\\%c", *text);
        else
            buf_add(out, text, 1);
    }
}

static void zsh_option(struct buf *out, const struct option *row, const char *word)
{
    buf_printf(out, "            '%s[", word);
    zsh_text(out, row->help);
    buf_puts(out, "]");
    if (row->argument) {
        struct buf words = { 0 };
        buf_puts(out, ":");
        zsh_text(out, row->argument);
        buf_puts(out, ":");
        if (takes_file(row))
            buf_puts(out, "_files");
        else if (add_words(&words, row, " "))
            buf_printf(out, "(%s)", buf_str(&words).data);
        buf_release(&words);
    }
    buf_puts(out, "' \\\n");
}

static void zsh_print(struct buf *out)
{
    buf_puts(out, "#compdef tandem\n"
                  "_tandem() {\n"
                  "    local -a commands\n"
                  "    commands=(\n");
    for (int i = 0; command_at(i); i++) {
        buf_printf(out, "        '%s:", command_at(i)->name);
        zsh_text(out, command_at(i)->summary);
        buf_puts(out, "'\n");
    }
    buf_puts(out, "        'help:the options of a command'\n"
                  "    )\n"
                  "    if (( CURRENT == 2 )); then\n"
                  "        _describe command commands\n"
                  "        _files\n"
                  "        return\n"
                  "    fi\n"
                  "    local command=$words[2]\n"
                  "    (( CURRENT-- ))\n"
                  "    shift words\n"
                  "    case $command in\n");
    for (int i = 0; command_at(i); i++) {
        const struct command *c = command_at(i);
        buf_printf(out, "        %s) _arguments -S \\\n", c->name);
        for (int k = 0; k < n_option_rows; k++) {
            char word[64];
            if (!belongs(&option_rows[k], c))
                continue;
            snprintf(word, sizeof word, "--%s", option_rows[k].name);
            zsh_option(out, &option_rows[k], word);
            if (option_rows[k].brief)
                zsh_option(out, &option_rows[k], option_rows[k].brief);
        }
        buf_puts(out, "            '*:file:_files' ;;\n");
    }
    buf_puts(out, "        help) _describe command commands ;;\n"
                  "        *) _files ;;\n"
                  "    esac\n"
                  "}\n"
                  "_tandem \"$@\"\n");
}

/* ---- fish ---- */

static void fish_text(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            buf_puts(out, "\\");
        buf_add(out, text, 1);
    }
}

static void fish_option(struct buf *out, const struct option *row, const struct command *c)
{
    struct buf words = { 0 };
    const char *brief = row->brief;
    buf_printf(out, "complete -c tandem -n '__fish_seen_subcommand_from %s' -l %s", c->name,
               row->name);
    if (brief)
        buf_printf(out, " -%c %s", brief[2] ? 'o' : 's', brief + 1);
    buf_puts(out, " -d '");
    fish_text(out, row->help);
    buf_puts(out, "'");
    if (row->argument && row->kind != OPT_MAYBE)
        buf_puts(out, takes_file(row) ? " -r -F" : " -x");
    if (!takes_file(row) && add_words(&words, row, " "))
        buf_printf(out, " -a '%s'", buf_str(&words).data);
    buf_puts(out, "\n");
    buf_release(&words);
}

static void fish_print(struct buf *out)
{
    buf_puts(out, "# fish completion for tandem\n");
    for (int i = 0; command_at(i); i++) {
        buf_printf(out, "complete -c tandem -n __fish_use_subcommand -a %s -d '",
                   command_at(i)->name);
        fish_text(out, command_at(i)->summary);
        buf_puts(out, "'\n");
    }
    buf_puts(out, "complete -c tandem -n __fish_use_subcommand -a help -d 'the options of a "
                  "command'\n"
                  "complete -c tandem -n '__fish_seen_subcommand_from help' -f -a '");
    add_commands(out);
    buf_puts(out, "'\n");
    for (int i = 0; command_at(i); i++)
        for (int k = 0; k < n_option_rows; k++)
            if (belongs(&option_rows[k], command_at(i)))
                fish_option(out, &option_rows[k], command_at(i));
}

bool completions_print(struct buf *out, const char *shell, struct error *err)
{
    static const struct {
        const char *name;
        void (*print)(struct buf *out);
    } shells[] = { { "bash", bash_print }, { "zsh", zsh_print }, { "fish", fish_print } };
    for (size_t i = 0; i < ARRAY_LEN(shells); i++) {
        if (strcmp(shell, shells[i].name) == 0) {
            shells[i].print(out);
            return true;
        }
    }
    return fail(err, ERR_USAGE, "no completions for \"%s\", expected bash, zsh or fish", shell);
}
