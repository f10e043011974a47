/* The expressions, as the tokenizer.json files of the models have them, and PCRE2 to run them.
 *
 * Two rewritings, both exact. White space is written out, because PCRE2's \s with UCP also takes
 * U+180E, which Unicode dropped. Kimi's class intersections X&&[^\p{Han}] become one negated class
 * that names everything outside of X, and Han. */
#include "src/text/presplit.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>

#include "src/base/mem.h"

#define MAX_EXPRESSIONS 6

#define SPACE "\\t\\n\\x0b\\f\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
              "\\x{202f}\\x{205f}\\x{3000}"
#define S  "[" SPACE "]"
#define NS "[^" SPACE "]"

/* The letters that deepseek-llm spells out: an old list, so scripts added since are not in it. */
#define LETTERS                                                                                   \
    "A-Za-z\\xb5\\xc0-\\xd6\\xd8-\\xf6\\xf8-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"           \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}"         \
    "\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}"                \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}"                    \
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}"                \
    "\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"                \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}"        \
    "\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}"       \
    "\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}"                \
    "\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}"        \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}"        \
    "\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}"                  \
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}"                 \
    "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}"                \
    "\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}"                \
    "\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}"            \
    "\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}"        \
    "\\x{1e900}-\\x{1e943}"

/* The end of every modern list: lines with their indentation, then runs of white space that leave
 * their last character to the word behind. */
#define SPACE_RUNS S "*[\\r\\n]+|" S "+(?!" NS ")|" S "+"

/* The GPT-4 family: contractions, words, numbers, symbols, white space. */
#define GPT4(numbers)                                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers "| ?[^" SPACE           \
    "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE_RUNS

/* From 10.40 on a bare \p{Han} means script extensions; the models mean the script. */
#if PCRE2_MAJOR > 10 || PCRE2_MINOR >= 40
#define HAN "\\p{sc:Han}"
#else
#define HAN "\\p{Han}"
#endif
#define KIMI_UPPER "[^\\p{Ll}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}" HAN "]"
#define KIMI_LOWER "[^\\p{Lu}\\p{Lt}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}" HAN "]"
#define KIMI_TAIL  "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"

/* \s+$ by hand: an engine tries it at each character of a run of white space and gives up at the
 * run's end, which is quadratic in files with long runs. */
static const char TRAILING_SPACE[] = S "+$";

static const struct {
    const char *name;
    const char *expressions[MAX_EXPRESSIONS];
} lists[] = {
    { "deepseek-llm",
      { "[\\r\\n]",
        S "?[" LETTERS "]+",
        S "?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
        TRAILING_SPACE,
        "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+",
        "\\p{N}+" } },
    { "deepseek-coder",
      { "[\\r\\n]", S "?\\p{L}+", S "?\\p{P}+",
        "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}" } },
    { "deepseek-v3",
      { "\\p{N}{1,3}",
        "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
        "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACE_RUNS } },
    { "qwen2", { GPT4("\\p{N}") } },
    { "llama-bpe", { GPT4("\\p{N}{1,3}") } },
    { "kimi-k2",
      { HAN "+|[^\\r\\n\\p{L}\\p{N}]?" KIMI_UPPER "*" KIMI_LOWER "+" KIMI_TAIL
        "[^\\r\\n\\p{L}\\p{N}]?" KIMI_UPPER "+" KIMI_LOWER "*" KIMI_TAIL
        "\\p{N}{1,3}| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE_RUNS } },
};

/* ---- recognition ---- */

/* Write a code point the way the lists above do; returns the length, below 16. */
static size_t spell(char *out, uint32_t code)
{
    if (code == '\r' || code == '\n')
        return (size_t)snprintf(out, 16, "%s", code == '\r' ? "\\r" : "\\n");
    if (code < 0x80)
        return (size_t)snprintf(out, 16, "%c", (int)code);
    return (size_t)snprintf(out, 16, code < 0x100 ? "\\x%02x" : "\\x{%x}", code);
}

/* The next code point of valid UTF-8; *at moves on. Truncated text ends early. */
static uint32_t next_code(struct str s, size_t *at)
{
    unsigned char lead = (unsigned char)s.data[(*at)++];
    int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    uint32_t code = more ? lead & (0x3Fu >> more) : lead;
    for (; more > 0 && *at < s.len; more--)
        code = code << 6 | ((unsigned char)s.data[(*at)++] & 0x3Fu);
    return code;
}

/* Does `regex`, rewritten as the lists are, read `wanted`? */
static bool reads(struct str regex, const char *wanted)
{
    bool in_class = false;
    size_t at = 0;
    while (at < regex.len) {
        char piece[sizeof "[^" SPACE "]"];
        size_t n;
        char c = regex.data[at], next = at + 1 < regex.len ? regex.data[at + 1] : 0;
        if (c == '\\' && next && strchr("\"'#%&,/:;<=>@!~_`", next)) {
            at++; /* escaped without need */
            c = next;
            next = 0;
        }
        if (c == '\\' && (next == 's' || next == 'S')) {
            n = (size_t)snprintf(piece, sizeof piece, "%s",
                                 next == 'S' ? NS : in_class ? SPACE : S);
            at += 2;
        } else if (c == '\\' && next) {
            piece[0] = c;
            n = 1 + spell(piece + 1, (at++, next_code(regex, &at)));
        } else {
            in_class = in_class ? c != ']' : c == '[';
            n = spell(piece, next_code(regex, &at));
        }
        if (strncmp(wanted, piece, n) != 0)
            return false;
        wanted += n;
    }
    return !*wanted;
}

const char *presplit_match(const struct str *expressions, int n)
{
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        int k = 0;
        while (k < n && k < MAX_EXPRESSIONS && lists[i].expressions[k] &&
               reads(expressions[k], lists[i].expressions[k]))
            k++;
        if (k == n && k > 0 && (k == MAX_EXPRESSIONS || !lists[i].expressions[k]))
            return lists[i].name;
    }
    return NULL;
}

struct presplit {
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_code *codes[MAX_EXPRESSIONS]; /* NULL: trailing white space */
    int n_codes;
    bool has_jit[MAX_EXPRESSIONS];
};

static void *pcre_malloc(size_t size, void *unused)
{
    (void)unused;
    return mem_alloc_aligned(1, size, "regular expression", NULL);
}

static void pcre_free(void *block, void *unused)
{
    (void)unused;
    mem_free(block);
}

static bool no_memory(struct error *err)
{
    return fail(err, ERR_FIT, "out of memory: regular expression");
}

static bool compile(struct presplit *p, const char *expression, struct error *err)
{
    int i = p->n_codes++;
    if (expression == TRAILING_SPACE)
        return true;
    pcre2_compile_context *context = pcre2_compile_context_create(p->memory);
    if (!context)
        return no_memory(err);
    int code;
    size_t offset;
    p->codes[i] = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &code, &offset,
                                context);
    pcre2_compile_context_free(context);
    if (!p->codes[i] && code == PCRE2_ERROR_HEAP_FAILED)
        return no_memory(err);
    if (!p->codes[i]) {
        char message[128] = "?";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        return fail(err, ERR_INTERNAL, "pre-tokenizer expression %d: %s at %zu", i + 1, message,
                    offset);
    }
    /* Without JIT (another machine, hardened kernel) the interpreter does the same, slower. */
    p->has_jit[i] = pcre2_jit_compile(p->codes[i], PCRE2_JIT_COMPLETE) == 0;
    return true;
}

bool presplit_open(struct presplit **out, const char *name, struct error *err)
{
    struct presplit *p = *out = mem_alloc(1, sizeof *p, "pre-tokenizer", err);
    if (!p)
        return false;
    bool ok = true;
    p->memory = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
    p->limits = p->memory ? pcre2_match_context_create(p->memory) : NULL;
    if (!p->limits) {
        ok = no_memory(err);
    } else {
        /* Every expression runs in linear time, so the guards against runaway matching, which a
         * line of 100 MB would trip, have nothing to guard. */
        pcre2_set_match_limit(p->limits, UINT32_MAX);
        pcre2_set_depth_limit(p->limits, UINT32_MAX);
        pcre2_set_heap_limit(p->limits, UINT32_MAX);
    }
    for (size_t i = 0; ok && i < ARRAY_LEN(lists); i++)
        for (int k = 0; ok && strcmp(lists[i].name, name) == 0 && k < MAX_EXPRESSIONS; k++)
            if (lists[i].expressions[k])
                ok = compile(p, lists[i].expressions[k], err);
    if (!ok) {
        presplit_close(p);
        *out = NULL;
    }
    return ok;
}

void presplit_close(struct presplit *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->n_codes; i++)
        pcre2_code_free(p->codes[i]);
    pcre2_match_context_free(p->limits);
    pcre2_general_context_free(p->memory);
    mem_free(p);
}

/* One call of presplit_run. */
struct run {
    const struct presplit *p;
    pcre2_match_data *match;
    presplit_piece *emit;
    void *ctx;
};

static bool is_space(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    if (len == 1)
        return p[0] == ' ' || (p[0] >= '\t' && p[0] <= '\r');
    if (len == 2)
        return p[0] == 0xC2 && (p[1] == 0x85 || p[1] == 0xA0);
    if (len != 3)
        return false;
    unsigned code = (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    return code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

/* Where the white space at the end of `text` begins. */
static size_t trailing_space(struct str text)
{
    size_t end = text.len;
    while (end > 0) {
        size_t start = end - 1;
        while (start > 0 && ((unsigned char)text.data[start] & 0xC0) == 0x80)
            start--;
        if (!is_space(text.data + start, end - start))
            break;
        end = start;
    }
    return end;
}

/* Find the next match of expression k at or behind `from`: 1 found, 0 none, -1 error. */
static int next_match(const struct run *r, int k, struct str text, size_t from, size_t *start,
                      size_t *end, struct error *err)
{
    if (!r->p->codes[k]) {
        *start = from < text.len ? trailing_space(text) : text.len;
        *end = text.len;
        return *start < *end;
    }
    PCRE2_SPTR subject = (PCRE2_SPTR)text.data;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (r->p->has_jit[k])
        rc = pcre2_jit_match(r->p->codes[k], subject, text.len, from, PCRE2_NO_UTF_CHECK, r->match,
                             r->p->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(r->p->codes[k], subject, text.len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         r->match, r->p->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        char message[128] = "?";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
        fail(err, rc == PCRE2_ERROR_NOMEMORY ? ERR_FIT : ERR_INTERNAL,
             "splitting %zu bytes of text: %s", text.len, message);
        return -1;
    }
    const size_t *ends = pcre2_get_ovector_pointer(r->match);
    *start = ends[0];
    *end = ends[1];
    return 1;
}

/* Split `text` by expression k and what follows. The depth is at most MAX_EXPRESSIONS, and nothing
 * is kept but two offsets per level: a file of any size needs no list of its pieces. */
static bool split(const struct run *r, int k, struct str text, struct error *err)
{
    if (text.len == 0)
        return true;
    if (k == r->p->n_codes)
        return r->emit(r->ctx, text, err);
    size_t done = 0, start, end;
    int found;
    while ((found = next_match(r, k, text, done, &start, &end, err)) > 0) {
        if (!split(r, k + 1, (struct str){ text.data + done, start - done }, err) ||
            !split(r, k + 1, (struct str){ text.data + start, end - start }, err))
            return false;
        done = end;
    }
    return found == 0 && split(r, k + 1, (struct str){ text.data + done, text.len - done }, err);
}

bool presplit_run(const struct presplit *p, struct str text, presplit_piece *emit, void *ctx,
                  struct error *err)
{
    struct run r = { .p = p, .emit = emit, .ctx = ctx };
    r.match = pcre2_match_data_create(1, p->memory);
    if (!r.match)
        return no_memory(err);
    bool ok = split(&r, 0, text, err);
    pcre2_match_data_free(r.match);
    return ok;
}
