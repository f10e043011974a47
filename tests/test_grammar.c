/* Grammars against a matcher that tries everything, masks against single bytes, and JSON written
 * under random schemas against a reader and a small validator. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/cli/grammar_option.h"
#include "src/cli/json_schema.h"
#include "src/text/constraint.h"
#include "src/text/sampler.h"
#include "tests/check.h"

#define DEMO "models/demo.gguf"

static uint32_t below(uint32_t n)
{
    return (uint32_t)(check_random() >> 33) % n;
}

/* ---- the acceptor ---------------------------------------------------------------------------- */

static struct grammar *parse(const char *text, struct error *err)
{
    struct grammar *g = NULL;
    memset(err, 0, sizeof *err);
    grammar_parse(&g, str_of(text), err);
    return g;
}

static int accepts(struct acceptor *a, struct str s)
{
    struct error err = { 0 };
    int32_t state = acceptor_start(a);
    for (size_t i = 0; i < s.len; i++)
        if (!acceptor_step(a, state, (unsigned char)s.data[i], &state, &err))
            return -1;
    return acceptor_may_end(a, state);
}

static void test_texts(void)
{
    static const struct {
        const char *grammar, *yes[4], *no[4];
    } rows[] = {
        { "root ::= \"yes\" | \"no\"", { "yes", "no" }, { "", "ye", "yesno", "y" } },
        { "root ::= [a-c]+ \"-\"? # end\n", { "a", "abc-", "cc" }, { "", "-", "d", "a--" } },
        { "root ::= x{2,3}\nx ::= \"a\" | \"bb\"", { "aa", "abba", "bbbb" }, { "a", "aaaa", "bb" } },
        { "root ::= [^a-y\\n]", { "z", "\xc3\xa4", "\xf0\x9f\x98\x80" }, { "a", "\n", "zz", "\xc3" } },
        { "root ::= \"(\" root \")\" | \"\"", { "", "()", "((()))" }, { "(", "())", ")(" } },
        { "root ::= (\"a\"*)* \"b\"{,}", { NULL }, { NULL } },
        { "root ::= \"\\x41\\u00e4\\U0001F600\\\"\"", { "A\xc3\xa4\xf0\x9f\x98\x80\"" }, { "A" } },
        { "root ::= ((\"a\"?)* \"\")+ \"b\"", { "b", "aab" }, { "", "a", "ba" } },
        { "root ::= [\\u07f0-\\U00010010]", { "\xdf\xb0", "\xe2\x82\xac", "\xf0\x90\x80\x90" },
          { "\xdf\xaf", "\xf0\x90\x80\x91", "\xed\xa0\x80", "a" } },
        { "root ::= .", { "x", "\xc3\xa4" }, { "", "\xff", "xx" } },
    };
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        struct error err;
        struct acceptor *a = NULL;
        check_case("texts of grammar %zu", r);
        struct grammar *g = parse(rows[r].grammar, &err);
        if (!rows[r].yes[0]) {
            CHECK_MSG(!g, "%s is taken", rows[r].grammar);
            grammar_close(g);
            continue;
        }
        CHECK_MSG(g != NULL, "%s", err.text);
        if (!g || !acceptor_open(&a, g, &err))
            continue;
        for (int i = 0; i < 4 && rows[r].yes[i]; i++)
            CHECK_MSG(accepts(a, str_of(rows[r].yes[i])) == 1, "refuses \"%s\"", rows[r].yes[i]);
        for (int i = 0; i < 4 && rows[r].no[i]; i++)
            CHECK_MSG(accepts(a, str_of(rows[r].no[i])) == 0, "takes \"%s\"", rows[r].no[i]);
        acceptor_close(a);
        grammar_close(g);
    }
}

static void test_mistakes(void)
{
    static const struct {
        const char *grammar, *says;
    } rows[] = {
        { "root ::= \"a", "line 1, column 10: the literal has no closing" },
        { "root ::= [a", "class has no closing" },
        { "root ::= (\"a\"", "line 1, column 10: the group has no closing" },
        { "root ::= \"a\"\n  %", "line 2, column 3: \"name ::=\" is expected" },
        { "root ::= x y\nx ::= \"a\"", "line 1, column 12: no rule is called y" },
        { "start ::= \"a\"", "no rule root" },
        { "", "no rule root" },
        { "root ::= root \"a\" | \"b\"", "left recursion" },
        { "root ::= x\nx ::= \"\" y \"c\" | \"d\"\ny ::= \"q\"? x", "left recursion" },
        { "root ::= \"a\" root", "can never end" },
        { "root ::= \"a\"{100000}", "10000 at most" },
        { "root ::= \"a\"{3,2}", "ends below" },
        { "root ::= \"a\"{", "wants a number" },
        { "root ::= (((\"a\"{10000}){10000}){10000}){10000}", "too large" },
        { "root ::= (((\"\"{10000}){10000}){10000}){10000}", "too large" },
        { "root ::= \"\\q\"", "unknown escape" },
        { "root ::= \"\\ud800\"", "no character" },
        { "root ::= [z-a]", "backwards" },
        { "root ::= []", "no character is in this class" },
        { "root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule root is defined twice" },
        { "root ::= \"\xff\"", "UTF-8" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct error err;
        check_case("mistake %zu", i);
        struct grammar *g = parse(rows[i].grammar, &err);
        CHECK(!g);
        CHECK_INT(err.code, ERR_USAGE);
        CHECK_MSG(strstr(err.text, rows[i].says) != NULL, "says: %s", err.text);
        grammar_close(g);
    }
    check_case("deep nesting");
    char *deep = malloc(40000);
    struct error err;
    strcpy(deep, "root ::= ");
    memset(deep + 9, '(', 30000);
    deep[30009] = 0;
    struct grammar *g = parse(deep, &err);
    CHECK(!g && strstr(err.text, "groups within groups"));
    grammar_close(g);
    free(deep);
}

/* Random grammars over a and b: a tree, written out as text, and judged by trying everything. A set
 * of end positions is a bit mask, as texts are short. */
struct tree {
    char kind; /* 'a' 'b' '.' sequence, '|' '*' '?' '+' */
    struct tree *x, *y;
};

static struct tree *grow_tree(struct tree *room, int *n, int depth)
{
    struct tree *t = &room[(*n)++];
    static const char kinds[] = "ab..||*?+";
    *t = (struct tree){ .kind = kinds[below(depth > 0 ? 9 : 2)] };
    if (t->kind == 'a' || t->kind == 'b')
        return t;
    t->x = grow_tree(room, n, depth - 1);
    if (t->kind == '.' || t->kind == '|')
        t->y = grow_tree(room, n, depth - 1);
    return t;
}

static struct tree *grow_choice(struct tree *room, int *n)
{
    struct tree *t = &room[(*n)++];
    *t = (struct tree){ .kind = '|' };
    t->x = grow_tree(room, n, 4);
    t->y = grow_tree(room, n, 3);
    return t;
}

static void write_tree(const struct tree *t, char *out)
{
    char *end = out + strlen(out);
    if (t->kind == 'a' || t->kind == 'b') {
        sprintf(end, "\"%c\"", t->kind);
        return;
    }
    strcat(out, "(");
    write_tree(t->x, out);
    strcat(out, ")");
    if (t->kind == '.' || (t->kind == '|' && t->y)) {
        strcat(out, t->kind == '|' ? " | (" : " (");
        write_tree(t->y, out);
        strcat(out, ")");
    } else if (t->kind != '|') {
        sprintf(out + strlen(out), "%c", t->kind);
    }
}

static unsigned match(const struct tree *t, const char *s, unsigned from)
{
    unsigned to = 0, more;
    int n = (int)strlen(s);
    switch (t->kind) {
    case 'a': case 'b':
        for (int i = 0; i < n; i++)
            if (from >> i & 1 && s[i] == t->kind)
                to |= 2u << i;
        return to;
    case '.': return match(t->y, s, match(t->x, s, from));
    case '|': return match(t->x, s, from) | (t->y ? match(t->y, s, from) : 0);
    case '?': return from | match(t->x, s, from);
    default:
        to = t->kind == '*' ? from : match(t->x, s, from);
        while ((more = to | match(t->x, s, to)) != to)
            to = more;
        return to;
    }
}

static void test_random_grammars(void)
{
    check_case("random grammars");
    int n_yes = 0, n_no = 0;
    for (int k = 0; k < 300; k++) {
        struct tree room[256];
        int n = 0;
        char text[8192] = "root ::= ";
        struct error err;
        struct tree *t = grow_choice(room, &n);
        write_tree(t, text);
        struct grammar *g = parse(text, &err);
        struct acceptor *a = NULL;
        if (!CHECK_MSG(g && acceptor_open(&a, g, &err), "%s: %s", text, err.text)) {
            grammar_close(g);
            return;
        }
        for (int i = 0; i < 60; i++) {
            char s[12] = "";
            size_t len = below(9);
            for (size_t j = 0; j < len; j++)
                s[j] = (char)('a' + below(2));
            int wanted = match(t, s, 1) >> len & 1;
            CHECK_MSG(accepts(a, str_of(s)) == wanted, "%s: \"%s\" wanted %d", text, s, wanted);
            n_yes += wanted;
            n_no += !wanted;
        }
        acceptor_close(a);
        grammar_close(g);
    }
    CHECK(n_yes > 500 && n_no > 500);
}

static void test_ambiguity(void)
{
    struct error err;
    check_case("a stack for each reading of a text is refused in time");
    struct grammar *g = parse("root ::= a root \"x\" | b root \"y\" | \"z\"\na ::= \"q\"\nb ::= \"q\"",
                              &err);
    struct acceptor *a = NULL;
    CHECK(g && acceptor_open(&a, g, &err));
    int32_t state = a ? acceptor_start(a) : 0;
    bool ok = true;
    for (int i = 0; a && ok && i < 40; i++)
        ok = acceptor_step(a, state, 'q', &state, &err);
    CHECK(!ok);
    CHECK_INT(err.code, ERR_RUN);
    acceptor_close(a);
    grammar_close(g);
}

/* ---- masks ----------------------------------------------------------------------------------- */

static struct tokenizer *tokenizer;
static struct gguf file;

static struct constraint *constrain(const char *grammar)
{
    struct error err;
    struct constraint *c = NULL;
    struct grammar *g = parse(grammar, &err);
    CHECK_MSG(g != NULL, "%s", err.text);
    if (g)
        CHECK(constraint_open(&c, g, tokenizer, tokenizer_n_tokens(tokenizer), &err));
    return c;
}

/* Sample until the end; the text into `out`, terminated. Each step the mask is judged byte by byte
 * when `judge` is given. False when it did not end. */
static bool write_text(struct constraint *c, struct acceptor *judge, char *out, size_t size)
{
    int n = tokenizer_n_tokens(tokenizer);
    float *logits = malloc((size_t)n * sizeof *logits);
    struct error err = { 0 };
    size_t len = 0;
    bool done = false, ok = true;
    int32_t state = judge ? acceptor_start(judge) : 0;
    constraint_reset(c);
    for (int step = 0; ok && !done && step < 3000; step++) {
        for (int i = 0; i < n; i++)
            logits[i] = (float)below(1000) + (step > 40 && tokenizer_is_end(tokenizer, i) ? 2000 : 0)
                      + (step > 40 && tokenizer_bytes(tokenizer, i, false).len == 1 &&
                         strchr("\"]}", tokenizer_bytes(tokenizer, i, false).data[0]) ? 1500 : 0);
        ok = constraint_apply(c, logits, &err);
        int best = 0, n_wrong = 0;
        for (int i = 0; ok && i < n; i++) {
            best = logits[i] > logits[best] ? i : best;
            if (!judge)
                continue;
            struct str b = tokenizer_bytes(tokenizer, i, false);
            enum token_type type = tokenizer_type(tokenizer, i);
            int32_t s = b.len && (type == TOKEN_NORMAL || type == TOKEN_BYTE) ? state : 0;
            for (size_t k = 0; k < b.len && s; k++)
                acceptor_step(judge, s, (unsigned char)b.data[k], &s, &err);
            bool wanted = tokenizer_is_end(tokenizer, i) ? acceptor_may_end(judge, state) : s != 0;
            n_wrong += wanted != (logits[i] != -INFINITY);
        }
        CHECK_MSG(ok, "%s", err.text);
        CHECK_INT(n_wrong, 0);
        done = tokenizer_is_end(tokenizer, best);
        if (!ok || done)
            break;
        struct str b = tokenizer_bytes(tokenizer, best, false);
        ok = len + b.len < size && constraint_accept(c, best, &err);
        for (size_t k = 0; judge && k < b.len; k++)
            acceptor_step(judge, state, (unsigned char)b.data[k], &state, &err);
        if (ok)
            memcpy(out + len, b.data, b.len);
        len += ok ? b.len : 0;
    }
    out[len] = 0;
    free(logits);
    return done;
}

static void test_masks(void)
{
    static const char *const grammars[] = {
        "root ::= [a-z ]{3,30} \".\"", "root ::= (\"\xe2\x82\xac\" | [\\u4e00-\\u9fff]){2,6}",
        "root ::= \"[\" (root (\",\" root)*)? \"]\" | [0-9]+ | \"\\\"\" [^\"]* \"\\\"\"",
        "root ::= .{0,20}",
    };
    static char text[1 << 16];
    for (size_t i = 0; i < ARRAY_LEN(grammars); i++) {
        struct error err;
        struct acceptor *judge = NULL;
        check_case("masks of grammar %zu", i);
        struct constraint *c = constrain(grammars[i]);
        struct grammar *g = parse(grammars[i], &err);
        CHECK(acceptor_open(&judge, g, &err));
        for (int k = 0; c && judge && k < 3; k++)
            if (write_text(c, judge, text, sizeof text))
                CHECK_MSG(accepts(judge, str_of(text)) == 1, "wrote \"%s\"", text);
        acceptor_close(judge);
        grammar_close(g);
        constraint_close(c);
    }
}

/* A text of the grammar as tokens, chosen at random; 0: it did not end. */
static int write_tokens(struct constraint *c, float *logits, int32_t *out, int most)
{
    int n = tokenizer_n_tokens(tokenizer);
    bool complete = false;
    constraint_reset(c);
    for (int len = 0; len < most; len++) {
        if (!CHECK(constraint_is_complete(c, &complete, NULL)) || complete)
            return len;
        for (int i = 0; i < n; i++)
            logits[i] = tokenizer_is_end(tokenizer, i) ? -1 : (float)below(1000);
        int best = 0;
        if (!CHECK(constraint_apply(c, logits, NULL)))
            return 0;
        for (int i = 0; i < n; i++)
            best = logits[i] > logits[best] ? i : best;
        if (!CHECK(constraint_accept(c, best, NULL)))
            return 0;
        out[len] = best;
    }
    return 0;
}

/* What it will forbid, told before the tokens are there, is what it then forbids. */
static void test_foresight(void)
{
    enum { MOST = 40, AHEAD = 3 };
    static const char grammar[] = "root ::= \"[\" [0-9]{1,3} (\", \" [0-9]{1,3}){4} \"]\"";
    struct constraint *c = constrain(grammar), *judge = constrain(grammar);
    int n = tokenizer_n_tokens(tokenizer), ends = 0, others = 0;
    float *found = malloc((size_t)n * sizeof *found), *wanted = malloc((size_t)n * sizeof *wanted);
    int32_t tokens[MOST], none = tokenizer_find(tokenizer, "z");
    check_case("masks behind tokens that are yet to come");
    int len = c && judge && found && wanted ? write_tokens(judge, wanted, tokens, MOST) : 0;
    CHECK(len > 5);
    for (int at = 0; at <= len; at++) {
        constraint_reset(c);
        for (int i = 0; i < at; i++)
            CHECK(constraint_accept(c, tokens[i], NULL));
        for (int ahead = 0; ahead <= AHEAD && at + ahead <= len; ahead++) {
            bool complete = true;
            constraint_reset(judge);
            for (int i = 0; i < at + ahead; i++)
                CHECK(constraint_accept(judge, tokens[i], NULL));
            memset(found, 0, (size_t)n * sizeof *found);
            memset(wanted, 0, (size_t)n * sizeof *wanted);
            CHECK(constraint_is_complete(judge, &complete, NULL));
            CHECK(complete || constraint_apply(judge, wanted, NULL));
            CHECK_INT(constraint_foresee(c, &tokens[at], ahead, found), !complete);
            CHECK(memcmp(found, wanted, (size_t)n * sizeof *found) == 0);
            ends += complete;
            others += !complete;
        }
        memset(found, 0, (size_t)n * sizeof *found);
        CHECK(!constraint_foresee(c, &none, 1, found) && found[none] == 0);
    }
    CHECK(ends == AHEAD + 1 && others > 3 * ends);
    free(found);
    free(wanted);
    constraint_close(c);
    constraint_close(judge);
}

/* ---- schemas --------------------------------------------------------------------------------- */

static void random_schema(struct buf *b, int depth)
{
    int low = (int)below(2000) - 1000, high = low + (int)below(3000);
    switch (below(depth > 0 ? 9 : 6)) {
    case 0: buf_printf(b, "{\"type\":\"integer\",\"minimum\":%d,\"maximum\":%d}", low, high); return;
    case 1: buf_puts(b, "{\"type\":[\"boolean\",\"null\"]}"); return;
    case 2: low = (int)below(4);
        buf_printf(b, "{\"type\":\"string\",\"minLength\":%d,\"maxLength\":%d}", low,
                   low + (int)below(6));
        return;
    case 3: buf_puts(b, "{\"enum\":[\"a\\\"b\",1,2.5,null,[true],{\"k\":\"\\u00e4\\n\"}]}"); return;
    case 4: buf_puts(b, "{\"type\":\"number\",\"title\":\"x\"}"); return;
    case 5: buf_printf(b, "{\"const\":%d}", low); return;
    case 6: low = (int)below(3);
        buf_printf(b, "{\"type\":\"array\",\"minItems\":%d,\"maxItems\":%d,\"items\":", low,
                   low + (int)below(3));
        random_schema(b, depth - 1);
        buf_puts(b, "}");
        return;
    case 7:
        buf_puts(b, "{\"anyOf\":[");
        random_schema(b, depth - 1);
        buf_puts(b, ",");
        random_schema(b, depth - 1);
        buf_puts(b, "]}");
        return;
    }
    int n = (int)below(5);
    buf_puts(b, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < n; i++) {
        buf_printf(b, "%s\"p%d\":", i ? "," : "", i);
        random_schema(b, depth - 1);
    }
    buf_puts(b, "},\"required\":[");
    const char *comma = "";
    for (int i = 0; i < n; i++)
        if (below(2)) {
            buf_printf(b, "%s\"p%d\"", comma, i);
            comma = ",";
        }
    buf_puts(b, "]}");
}

static bool same(const struct json *a, const struct json *b)
{
    struct str s, t;
    double x, y;
    bool p, q;
    if (js_as_text(a, &s))
        return js_as_text(b, &t) && s.len == t.len && memcmp(s.data, t.data, s.len) == 0;
    if (js_as_real(a, &x))
        return js_as_real(b, &y) && x == y;
    if (js_as_bool(a, &p))
        return js_as_bool(b, &q) && p == q;
    if (js_is_null(a))
        return js_is_null(b);
    if (js_is_array(a) != js_is_array(b) || js_count(a) != js_count(b))
        return false;
    for (size_t i = 0; js_is_array(a) && i < js_count(a); i++)
        if (!same(js_at(a, i), js_at(b, i)))
            return false;
    struct js_cursor at = { 0 };
    while (js_is_object(a) && js_next(a, &at))
        if (!js_get(b, at.key) || !same(at.value, js_get(b, at.key)))
            return false;
    return true;
}

static int64_t number_of(const struct json *s, const char *key, int64_t otherwise)
{
    js_as_int(js_get(s, key), &otherwise);
    return otherwise;
}

static bool valid(const struct json *s, const struct json *j)
{
    const struct json *list;
    struct str type = { "", 0 }, text;
    int64_t i;
    double x;
    bool b, any = false;
    if ((list = js_get(s, "const")))
        return same(list, j);
    if ((list = js_get(s, "enum"))) {
        for (size_t k = 0; k < js_count(list); k++)
            any = any || same(js_at(list, k), j);
        return any;
    }
    if ((list = js_get(s, "anyOf")))
        return valid(js_at(list, 0), j) || valid(js_at(list, 1), j);
    if (js_is_array(js_get(s, "type")))
        return js_is_null(j) || js_as_bool(j, &b);
    js_as_text(js_get(s, "type"), &type);
    if (str_is(type, "integer"))
        return js_as_int(j, &i) && i >= number_of(s, "minimum", INT64_MIN) &&
               i <= number_of(s, "maximum", INT64_MAX);
    if (str_is(type, "number"))
        return js_as_real(j, &x);
    if (str_is(type, "string")) {
        int64_t n = 0;
        for (size_t k = 0; js_as_text(j, &text) && k < text.len; k++)
            n += (text.data[k] & 0xC0) != 0x80;
        return js_as_text(j, &text) && n >= number_of(s, "minLength", 0) &&
               n <= number_of(s, "maxLength", INT64_MAX);
    }
    if (str_is(type, "array")) {
        for (size_t k = 0; k < js_count(j); k++)
            if (!valid(js_get(s, "items"), js_at(j, k)))
                return false;
        return js_is_array(j) && (int64_t)js_count(j) >= number_of(s, "minItems", 0) &&
               (int64_t)js_count(j) <= number_of(s, "maxItems", INT64_MAX);
    }
    struct js_cursor at = { 0 };
    while (js_next(j, &at))
        if (!js_get(js_get(s, "properties"), at.key) ||
            !valid(js_get(js_get(s, "properties"), at.key), at.value))
            return false;
    for (size_t k = 0; k < js_count(js_get(s, "required")); k++)
        if (!js_as_text(js_at(js_get(s, "required"), k), &text) || !js_get(j, text.data))
            return false;
    return js_is_object(j);
}

static void test_random_schemas(void)
{
    static char text[1 << 16];
    int n_done = 0;
    check_case("answers under 200 random schemas");
    for (int k = 0; k < 200; k++) {
        struct buf schema = { 0 }, gbnf = { 0 };
        struct error err = { 0 };
        random_schema(&schema, 3);
        struct json *s = js_parse(buf_str(&schema), &err);
        if (CHECK_MSG(s && json_schema_grammar(s, &gbnf, &err), "%s: %s", schema.data, err.text)) {
            struct constraint *c = constrain(gbnf.data);
            bool done = c && write_text(c, NULL, text, sizeof text);
            struct json *j = done ? js_parse(str_of(text), &err) : NULL;
            n_done += done;
            if (done && !js_is_object(s))
                CHECK(false);
            /* A document that is no object or array has no reader of its own here: wrap it. */
            if (done && !j) {
                struct buf wrapped = { 0 };
                buf_printf(&wrapped, "[%s]", text);
                struct json *w = js_parse(buf_str(&wrapped), &err);
                CHECK_MSG(w && valid(s, js_at(w, 0)), "%s\nwrote %s", schema.data, text);
                js_free(w);
                buf_release(&wrapped);
            } else if (done) {
                CHECK_MSG(valid(s, j), "%s\nwrote %s", schema.data, text);
            }
            js_free(j);
            constraint_close(c);
        }
        js_free(s);
        buf_release(&schema);
        buf_release(&gbnf);
    }
    CHECK_INT(n_done, 200);
}

static void test_large_schema(void)
{
    check_case("more properties than a grammar has rules for");
    struct buf many = { 0 }, gbnf = { 0 };
    struct error why = { 0 };
    for (int i = 0; i < 30000; i++)
        buf_printf(&many, "%s\"p%d\":{}", i ? "," : "{\"type\":\"object\",\"properties\":{", i);
    for (int i = 0; i < 30000; i++)
        buf_printf(&many, "%s\"p%d\"", i ? "," : "},\"required\":[", i);
    buf_puts(&many, "]}");
    struct json *large = js_parse(buf_str(&many), &why);
    CHECK(large && !json_schema_grammar(large, &gbnf, &why));
    CHECK_INT(why.code, ERR_USAGE);
    CHECK_MSG(strstr(why.text, "30000 properties"), "%s", why.text);
    js_free(large);
    buf_release(&many);
    buf_release(&gbnf);
}

/* As a model would write it, to the letter. */
static void test_constant(void)
{
    struct error err = { 0 };
    struct grammar *g = NULL;
    struct acceptor *a = NULL;
    static const char constant[] = "{\"a b\": [0.1, 2, \"x\\n\", null, {}]}";
    char schema[100];
    check_case("a constant");
    snprintf(schema, sizeof schema, "{\"const\": %s}", constant);
    CHECK_MSG(grammar_wanted(NULL, schema, &g, &err), "%s", err.text);
    CHECK(g && acceptor_open(&a, g, &err));
    CHECK(a && accepts(a, str_of(constant)) == 1);
    CHECK(a && accepts(a, str_of("{\"a b\": [0.2, 2, \"x\\n\", null, {}]}")) == 0);
    acceptor_close(a);
    grammar_close(g);
}

static void test_schema_mistakes(void)
{
    static const struct {
        const char *schema, *says;
    } rows[] = {
        { "{\"type\":\"string\",\"pattern\":\"a\"}", "keyword pattern is not supported" },
        { "{\"properties\":{\"x\":{\"format\":\"date\"}}}", "#/x: the keyword format" },
        { "{\"type\":\"number\",\"minimum\":1}", "integers only" },
        { "{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "no integer lies" },
        { "{\"type\":\"integer\",\"minimum\":1.5}", "minimum must be an integer" },
        { "{\"properties\":{},\"required\":[\"a\"]}", "names a, which" },
        { "{\"$ref\":\"#/$defs/no\"}", "leads nowhere" },
        { "{\"$ref\":\"#\"}", NULL }, /* its grammar is left-recursive */
        { "{\"type\":\"text\"}", "no type is called text" },
        { "{\"anyOf\":[{}],\"type\":\"string\"}", "anyOf beside other keywords" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct error err = { 0 };
        struct grammar *g = NULL;
        check_case("schema mistake %zu", i);
        CHECK(!grammar_wanted(NULL, rows[i].schema, &g, &err));
        CHECK_INT(err.code, ERR_USAGE);
        CHECK_MSG(strstr(err.text, rows[i].says ? rows[i].says : "the grammar") != NULL, "says: %s",
                  err.text);
        grammar_close(g);
    }
    struct error err = { 0 };
    struct grammar *g = NULL;
    check_case("recursive definitions");
    CHECK_MSG(grammar_wanted(NULL, "{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"next\":"
                             "{\"$ref\":\"#/$defs/t\"}}}},\"$ref\":\"#/$defs/t\"}", &g, &err),
              "%s", err.text);
    struct acceptor *a = NULL;
    CHECK(g && acceptor_open(&a, g, &err));
    CHECK(a && accepts(a, str_of("{\"next\":{\"next\": {}}}")) == 1);
    CHECK(a && accepts(a, str_of("{\"next\":{\"last\":{}}}")) == 0);
    acceptor_close(a);
    grammar_close(g);
}

/* What is true of a rule follows from others: in whatever order they stand, and however often. */
static void test_long_grammars(void)
{
    struct grammar *g = NULL;
    struct error err = { 0 };
    enum { N = GRAMMAR_RULES - 2 };
    for (int order = 0; order < 3; order++) {
        struct buf text = { 0 };
        check_case("%d rules, %s", N, order == 0 ? "each of the next" : order == 1
                                      ? "each of the one before" : "many times the last ones");
        buf_printf(&text, "root ::= r%d\n", order ? N - 1 : 0);
        for (int i = 0; i < N; i++) {
            int other = order == 0 ? i + 1 : order == 1 ? i - 1 : N;
            buf_printf(&text, other < 0 || other >= N ? "r%d ::= \"x\"\n" : "r%d ::= \"x\" r%d\n",
                       i, other);
        }
        for (int i = 0; order == 2 && i < 100000; i++)
            buf_printf(&text, i ? " r%d" : "z ::= r%d", N - 1 - i % 9);
        CHECK_MSG(grammar_parse(&g, buf_str(&text), &err), "%s", err.text);
        grammar_close(g);
        g = NULL;
        buf_release(&text);
    }
}

int main(void)
{
    struct error err = { 0 };
    test_texts();
    test_long_grammars();
    test_mistakes();
    test_random_grammars();
    test_ambiguity();
    check_case("the demo vocabulary");
    if (CHECK_MSG(gguf_open(&file, DEMO, &err) && tokenizer_open(&tokenizer, &file, &err), "%s",
                  err.text)) {
        test_masks();
        test_foresight();
        check_case("JSON in this build");
        if (!js_available(NULL)) {
            check_skip("built without jansson");
        } else {
            test_random_schemas();
            test_large_schema();
            test_constant();
            test_schema_mistakes();
        }
    }
    tokenizer_close(tokenizer);
    gguf_close(&file);
    return check_finish();
}
