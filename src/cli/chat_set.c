/* /set: options of the command line that can change while a chat runs, by the same table. */
#include <stdio.h>

#include "src/cli/chat_actions.h"
#include "src/cli/term.h"

const char *const *chat_set_names(void)
{
    static const char *names[64];
    int n = options_settable(CMD_CHAT, names, (int)ARRAY_LEN(names) - 1);
    names[n] = NULL;
    return names;
}

static bool show_all(struct chat *c)
{
    struct buf text = { 0 };
    options_show_settable(&text, c->o, CMD_CHAT);
    if (buf_ok(&text, NULL))
        err_lines(buf_str(&text));
    buf_release(&text);
    note("  sampling now: temperature %g, top-k %d, top-p %g, min-p %g, seed %llu",
         (double)c->m.sampling.temperature, c->m.sampling.top_k, (double)c->m.sampling.top_p,
         (double)c->m.sampling.min_p, (unsigned long long)c->m.sampling.seed);
    return true;
}

/* The row of one name; false where there is none, or it is a switch, which needs no value. */
static bool show_one(struct chat *c, const char *name)
{
    struct options copy = *c->o;
    struct error why = { 0 };
    const char *const *names = chat_set_names();
    struct buf text = { 0 };
    while (*names && strcmp(*names, name) != 0)
        names++;
    if (!*names || options_set(&copy, CMD_CHAT, name, "", &why))
        return false;
    options_show_settable(&text, c->o, CMD_CHAT);
    size_t len = strlen(name);
    for (const char *line = buf_str(&text).data; *line;) {
        size_t n = strcspn(line, "\n");
        if (strncmp(line + 2, name, len) == 0 && line[2 + len] == ' ')
            err_lines((struct str){ line, n + 1 });
        line += n + (line[n] != 0);
    }
    buf_release(&text);
    return true;
}

bool chat_do_set(struct chat *c, const char *argument, struct error *err)
{
    char name[48] = "";
    struct error why = { 0 };
    struct options before = *c->o;
    size_t len = strcspn(argument, " \t\n=");
    const char *value = argument + len;
    (void)err;
    if (!*argument)
        return show_all(c);
    memcpy(name, argument, min_of(len, sizeof name - 1));
    value += strspn(value, " \t\n=");
    if (strcmp(name, "think") == 0) {
        note("/think %s does that", *value ? value : "MODE");
        return true;
    }
    if (!*value && show_one(c, name))
        return true;
    if (!options_set(c->o, CMD_CHAT, name, value, &why) || !loaded_resample(&c->m, c->o, &why)) {
        *c->o = before;
        note("%s", why.text);
        return true;
    }
    if (strcmp(name, "show-thinking") == 0 && c->o->show_thinking != THINKING_STDOUT)
        c->show_thinking = c->o->show_thinking == THINKING_AUTO
                               ? THINKING_FULL : (enum show_thinking)c->o->show_thinking;
    note("%s is %s", name, *value ? value : "on");
    return true;
}
