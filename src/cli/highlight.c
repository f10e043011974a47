#include "src/cli/highlight.h"

#include <ctype.h>

/* Lists of words stand between blanks, so that " word " finds a whole one. */
struct language {
    const char *names, *keywords;
    const char *line_comments[2];   /* NULL: none */
    const char *open, *close;       /* of comments over lines */
    const char *quotes;             /* characters that begin and end a string */
    const char *long_quotes[2];     /* strings over lines */
    bool any_case;                  /* keywords in capitals too */
    bool is_diff;
};

#define C_WORDS " if else for while do switch case default break continue return goto sizeof " \
      "struct " \
    "union enum typedef static const extern inline void int char short long float double " \
      "unsigned " \
    "signed bool true false NULL volatile register auto "

static const struct language languages[] = {
    { .names = " c h cpp c++ cc hpp cxx cuda cu ", C_WORDS "class public private protected "
      "virtual template "
      "typename namespace using new delete this try catch throw constexpr noexcept override "
      "nullptr "
      "operator friend #include #define #ifdef #ifndef #endif #if #else #pragma ",
      { "//" }, "/*", "*/", "\"'", { 0 } },
    { .names = " java kotlin kt scala c# cs csharp swift dart groovy php ", C_WORDS "class "
      "public private "
      "protected interface implements extends import package new this super null try catch finally "
      "throw throws final abstract fun val var let func guard override when object string var "
      "is as "
      "in out async await function echo foreach ", { "//" }, "/*", "*/", "\"'", { 0 } },
    { .names = " js javascript ts typescript jsx tsx mjs ", " var let const function return "
      "if else for while "
      "do switch case default break continue new delete typeof instanceof in of class extends "
      "super "
      "this import export from as async await yield try catch finally throw null undefined true "
      "false void interface type enum implements public private readonly static get set ",
      { "//" }, "/*", "*/", "\"'", { "`" } },
    { .names = " python py python3 ", " def class return if elif else for while break "
      "continue pass import "
      "from as with try except finally raise lambda yield global nonlocal assert del in is not and "
      "or None True False async await match case self ", { "#" }, NULL, NULL, "\"'",
      { "\"\"\"", "'''" } },
    { .names = " sh bash zsh shell console fish ", " if then else elif fi for in do done "
      "while until case esac "
      "function return local export set unset echo cd exit source alias read test ",
      { "#" }, NULL, NULL, "\"'", { 0 } },
    { .names = " rust rs ", " fn let mut const static struct enum impl trait for while loop "
      "if else match "
      "return break continue use mod pub crate self Self super as in ref move where type dyn async "
      "await unsafe true false Some None Ok Err ", { "//" }, "/*", "*/", "\"", { 0 } },
    { .names = " go golang ", " func var const type struct interface map chan package import "
      "return if else "
      "for range switch case default break continue go defer select fallthrough goto nil true "
      "false "
      "make new len cap append error string int bool byte ", { "//" }, "/*", "*/", "\"'", { "`" } },
    { .names = " sql sqlite mysql postgresql ", " select from where insert into values update "
      "set delete "
      "create table drop alter index view join left right inner outer on group by order "
      "having limit "
      "offset union all distinct as and or not null is in like between case when then else end "
      "primary key foreign references default unique ", { "--" }, "/*", "*/", "'\"", { 0 },
      .any_case = true },
    { .names = " json jsonc jsonl ", " true false null ", { "//" }, NULL, NULL, "\"", { 0 } },
    { .names = " yaml yml toml ini conf ", " true false null yes no on off ", { "#" }, NULL,
      NULL, "\"'", { 0 } },
    { .names = " ruby rb ", " def end class module if elsif else unless while until for in do "
      "return yield "
      "begin rescue ensure raise require attr_accessor nil true false self puts then when case ",
      { "#" }, NULL, NULL, "\"'", { 0 } },
    { .names = " lua ", " and break do else elseif end false for function goto if in local "
      "nil not or repeat "
      "return then true until while ", { "--" }, "--[[", "]]", "\"'", { 0 } },
    { .names = " haskell hs ", " module import where let in case of data type newtype class "
      "instance deriving "
      "if then else do ", { "--" }, "{-", "-}", "\"", { 0 } },
    { .names = " make makefile dockerfile docker cmake ", " FROM RUN COPY ADD CMD ENTRYPOINT "
      "ENV ARG WORKDIR "
      "EXPOSE ifeq ifneq ifdef else endif include define endef ", { "#" }, NULL, NULL, "\"'",
      { 0 } },
    { .names = " html xml svg ", " ", { 0 }, "<!--", "-->", "\"", { 0 } },
    { .names = " css scss less ", " ", { 0 }, "/*", "*/", "\"'", { 0 } },
    { .names = " diff patch ", " ", { 0 }, NULL, NULL, "", { 0 }, .is_diff = true },
};

static bool has_word(const char *list, struct str word, bool any_case)
{
    char key[34];
    if (word.len == 0 || word.len > sizeof key - 3)
        return false;
    key[0] = ' ';
    for (size_t i = 0; i < word.len; i++)
        key[i + 1] = any_case ? (char)tolower((unsigned char)word.data[i]) : word.data[i];
    key[word.len + 1] = ' ';
    key[word.len + 2] = 0;
    return strstr(list, key) != NULL;
}

void highlight_open(struct highlight *h, struct str name)
{
    *h = (struct highlight){ 0 };
    for (size_t i = 0; i < ARRAY_LEN(languages); i++)
        if (has_word(languages[i].names, name, true))
            h->language = &languages[i];
}

static bool begins(struct str s, const char *with)
{
    return with && s.len >= strlen(with) && memcmp(s.data, with, strlen(with)) == 0;
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

/* Bytes up to and with `close`, or to the end when it is not there (*closed false). */
static size_t through(struct str s, size_t from, const char *close, bool *closed)
{
    for (size_t i = from; i < s.len; i++) {
        if (s.data[i] == '\\' && i + 1 < s.len)
            i++;
        else if (begins((struct str){ s.data + i, s.len - i }, close)) {
            *closed = true;
            return i + strlen(close);
        }
    }
    *closed = false;
    return s.len;
}

/* A comment or a string at the start of `s`: its length (0: neither) and its look. */
static size_t literal(struct highlight *h, struct str s, unsigned *look)
{
    const struct language *l = h->language;
    bool closed;
    if (begins(s, l->open)) {
        size_t n = through(s, strlen(l->open), l->close, &closed);
        h->inside = closed ? NULL : l->close;
        h->in_comment = true;
        *look = LOOK_COMMENT;
        return n;
    }
    for (size_t i = 0; i < ARRAY_LEN(l->line_comments); i++)
        if (begins(s, l->line_comments[i])) {
            *look = LOOK_COMMENT;
            return s.len;
        }
    *look = LOOK_STRING;
    for (size_t i = 0; i < ARRAY_LEN(l->long_quotes); i++)
        if (begins(s, l->long_quotes[i])) {
            size_t n = through(s, strlen(l->long_quotes[i]), l->long_quotes[i], &closed);
            h->inside = closed ? NULL : l->long_quotes[i];
            h->in_comment = false;
            return n;
        }
    if (strchr(l->quotes, s.data[0])) {
        char quote[2] = { s.data[0], 0 };
        return through(s, 1, quote, &closed);
    }
    return 0;
}

static unsigned diff_look(struct str line)
{
    char c = line.len ? line.data[0] : ' ';
    return c == '+' ? LOOK_STRING : c == '-' ? LOOK_REMOVED : c == '@' ? LOOK_CODE : 0;
}

void highlight_line(struct highlight *h, struct str line, struct styled *out)
{
    const struct language *l = h->language;
    if (!l || l->is_diff) {
        styled_add(out, line, l ? diff_look(line) : 0);
        return;
    }
    size_t i = 0;
    if (h->inside) {
        bool closed;
        i = through(line, 0, h->inside, &closed);
        styled_add(out, (struct str){ line.data, i }, h->in_comment ? LOOK_COMMENT : LOOK_STRING);
        if (closed)
            h->inside = NULL;
    }
    while (i < line.len) {
        struct str rest = { line.data + i, line.len - i };
        unsigned look = 0;
        size_t n = literal(h, rest, &look);
        if (n == 0 && (is_word(rest.data[0]) || rest.data[0] == '#')) {
            bool number = isdigit((unsigned char)rest.data[0]);
            for (n = 1; n < rest.len && (is_word(rest.data[n]) || (number && rest.data[n] == '.'));)
                n++;
            bool keyword = has_word(l->keywords, (struct str){ rest.data, n }, l->any_case);
            look = number ? LOOK_NUMBER : keyword ? LOOK_KEYWORD : 0;
        } else if (n == 0) {
            look = 0;
            n = 1;
        }
        styled_add(out, (struct str){ rest.data, n }, look);
        i += n;
    }
}
