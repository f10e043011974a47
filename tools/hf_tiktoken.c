#include "tools/hf_tiktoken.h"

#include "src/base/mem.h"
#include "src/text/vocab.h"

#define MAX_TOKEN_BYTES 256 /* of base64; finding the merge takes the square of it */

typedef unsigned long long ull;

/* ---- lines ---- */

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Bytes of `text`, room for 3/4 of its length at `out`; -1: not base64. */
static int64_t base64_decode(struct str text, uint8_t *out)
{
    int64_t n = 0;
    uint32_t bits = 0, n_bits = 0;
    while (text.len && text.data[text.len - 1] == '=')
        text.len--;
    for (size_t i = 0; i < text.len; i++) {
        int digit = base64_digit(text.data[i]);
        if (digit < 0)
            return -1;
        bits = bits << 6 | (uint32_t)digit;
        n_bits += 6;
        if (n_bits >= 8)
            out[n++] = (uint8_t)(bits >> (n_bits -= 8));
    }
    return text.len % 4 == 1 ? -1 : n;
}

/* Tokens as bytes, and where to find the rank of one. */
struct ranks {
    struct str *bytes;  /* [n] by rank */
    int64_t n;
    int32_t *slots;     /* open addressing; -1: free */
    size_t mask;
};

static size_t slot_of(const struct ranks *r, struct str bytes)
{
    uint64_t h = 14695981039346656037ull; /* FNV-1a */
    for (size_t i = 0; i < bytes.len; i++)
        h = (h ^ (uint8_t)bytes.data[i]) * 1099511628211ull;
    for (size_t at = (size_t)(h ^ h >> 32);; at++) {
        int32_t rank = r->slots[at & r->mask];
        if (rank < 0 || (r->bytes[rank].len == bytes.len &&
                         memcmp(r->bytes[rank].data, bytes.data, bytes.len) == 0))
            return at & r->mask;
    }
}

static bool take_line(struct ranks *r, struct str line, int64_t limit, struct arena *arena,
                      struct error *err)
{
    const char *gap = memchr(line.data, ' ', line.len);
    struct str code = { line.data, gap ? (size_t)(gap - line.data) : 0 };
    int64_t rank = 0;
    const char *at = gap ? gap + 1 : NULL, *end = line.data + line.len;
    if (!gap || at == end || code.len == 0 || code.len > MAX_TOKEN_BYTES)
        return fail(err, ERR_FILE, "expected a token in base64, a space and a rank");
    for (; at < end && *at >= '0' && *at <= '9' && rank < limit; at++)
        rank = 10 * rank + (*at - '0');
    if (at < end || rank >= limit)
        return fail(err, ERR_FILE, "the rank is no number below %lld", (long long)limit);
    uint8_t *bytes = arena_alloc(arena, code.len + 1, 1, err);
    int64_t n = bytes ? base64_decode(code, bytes) : 0;
    if (!bytes)
        return false;
    if (n < 1)
        return fail(err, ERR_FILE, "\"%.*s\" is not base64", (int)min_of(code.len, (size_t)40),
                    code.data);
    struct str token = { (char *)bytes, (size_t)n };
    if (r->bytes[rank].data)
        return fail(err, ERR_FILE, "rank %lld is taken already", (long long)rank);
    size_t slot = slot_of(r, token);
    if (r->slots[slot] >= 0)
        return fail(err, ERR_FILE, "the token of rank %d again", r->slots[slot]);
    r->bytes[rank] = token;
    r->slots[slot] = (int32_t)rank;
    r->n = max_of(r->n, rank + 1);
    return true;
}

static bool open_ranks(struct ranks *r, int64_t limit, struct error *err)
{
    size_t room = 64;
    while (room < 2 * (size_t)limit)
        room *= 2;
    r->mask = room - 1;
    r->slots = mem_alloc(room, sizeof *r->slots, "ranks", err);
    for (size_t i = 0; r->slots && i < room; i++)
        r->slots[i] = -1;
    return r->slots != NULL;
}

static bool read_ranks(struct ranks *r, struct str text, int64_t limit, struct arena *arena,
                       struct error *err)
{
    r->bytes = arena_alloc(arena, (size_t)limit, sizeof *r->bytes, err);
    if (!r->bytes || !open_ranks(r, limit, err))
        return false;
    for (ull number = 1; text.len; number++) {
        const char *end = memchr(text.data, '\n', text.len);
        size_t len = end ? (size_t)(end - text.data) : text.len;
        struct str line = { text.data, len - (len && text.data[len - 1] == '\r') };
        if (line.len && !take_line(r, line, limit, arena, err))
            return error_prefix(err, "tiktoken.model, line %llu", number);
        text.data += len + (end != NULL);
        text.len -= len + (end != NULL);
    }
    for (int byte = 0; byte < 256; byte++) {
        const char one = (char)byte;
        if (r->slots[slot_of(r, (struct str){ &one, 1 })] < 0)
            return fail(err, ERR_FILE, "tiktoken.model: byte 0x%02X has no token", byte);
    }
    return true;
}

/* ---- merges ---- */

static int32_t rank_of(const struct ranks *r, const char *from, const char *to)
{
    return r->slots[slot_of(r, (struct str){ from, (size_t)(to - from) })];
}

/* Where the two parts of token `rank` meet: encode its bytes with lower ranks until two parts are
 * left. 0: it ends with another number of parts, so no merge makes it. */
static size_t meeting_point(const struct ranks *r, int64_t rank)
{
    struct str token = r->bytes[rank];
    const char *cuts[MAX_TOKEN_BYTES + 1]; /* begin of each part, and the end */
    size_t n = token.len;
    for (size_t i = 0; i <= n; i++)
        cuts[i] = token.data + i;
    while (n > 2) {
        int32_t best = -1;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            int32_t found = rank_of(r, cuts[i], cuts[i + 2]);
            if (found >= 0 && found < rank && (best < 0 || found < best)) {
                best = found;
                at = i;
            }
        }
        if (best < 0)
            return 0;
        memmove(&cuts[at + 1], &cuts[at + 2], (n - at - 1) * sizeof *cuts);
        n--;
    }
    return n == 2 ? (size_t)(cuts[1] - token.data) : 0;
}

/* Parts of which neither is a token could not be merged either. */
static bool add_merge(struct tiktoken *t, const struct ranks *r, int64_t rank, struct arena *arena,
                      struct error *err)
{
    struct str token = r->bytes[rank];
    size_t left = meeting_point(r, rank);
    const char *middle = token.data + left, *end = token.data + token.len;
    if (!left || rank_of(r, token.data, middle) < 0 || rank_of(r, middle, end) < 0)
        return true;
    char *text = arena_alloc(arena, 2 * token.len + 2, 1, err);
    if (!text)
        return false;
    size_t n = byte_alphabet_encode((struct str){ token.data, left }, text);
    text[n++] = ' ';
    n += byte_alphabet_encode((struct str){ middle, token.len - left }, text + n);
    t->merges[t->n_merges++] = (struct str){ text, n };
    return true;
}

static bool spell(struct str bytes, struct str *out, struct arena *arena, struct error *err)
{
    char *text = arena_alloc(arena, 2 * bytes.len + 1, 1, err);
    if (!text)
        return false;
    *out = (struct str){ text, byte_alphabet_encode(bytes, text) };
    return true;
}

static bool build(struct tiktoken *t, const struct ranks *r, struct arena *arena,
                  struct error *err)
{
    t->n_tokens = r->n;
    t->tokens = arena_alloc(arena, (size_t)r->n, sizeof *t->tokens, err);
    t->merges = arena_alloc(arena, (size_t)r->n, sizeof *t->merges, err);
    if (!t->tokens || !t->merges)
        return false;
    for (int64_t rank = 0; rank < r->n; rank++) {
        struct str token = r->bytes[rank];
        if (!token.data)
            continue;
        if (!spell(token, &t->tokens[rank], arena, err) ||
            (token.len > 1 && !add_merge(t, r, rank, arena, err)))
            return false;
    }
    return true;
}

bool tiktoken_read(struct tiktoken *t, struct str text, int64_t limit, struct arena *arena,
                   struct error *err)
{
    struct ranks r = { 0 };
    *t = (struct tiktoken){ 0 };
    bool ok = read_ranks(&r, text, limit, arena, err) && build(t, &r, arena, err);
    mem_free(r.slots);
    return ok;
}

/* ---- pre-tokenizer ---- */

/* As the file of Kimi-K2 joins it from its parts. */
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define TAIL  "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define FRONT "[^\\r\\n\\p{L}\\p{N}]?"
static const char kimi[] =
    "[\\p{Han}]+|" FRONT UPPER "*" LOWER "+" TAIL "|" FRONT UPPER "+" LOWER "*" TAIL
    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

#define QUOTES "\"\"\""

static const char *find_text(struct str s, const char *text)
{
    return memmem(s.data, s.len, text, strlen(text));
}

/* The raw strings from pat_str on, joined by "|", must spell the expression. */
const char *tiktoken_pre(struct str python)
{
    const char *wanted = kimi, *at = find_text(python, "pat_str"), *end = python.data + python.len;
    for (bool first = true; at; first = false) {
        const char *from = find_text((struct str){ at, (size_t)(end - at) }, "r" QUOTES);
        if (!from)
            return NULL;
        from += 1 + strlen(QUOTES);
        const char *to = find_text((struct str){ from, (size_t)(end - from) }, QUOTES);
        size_t n = to ? (size_t)(to - from) : 0;
        if (!to || (!first && *wanted++ != '|') || n > strlen(wanted) ||
            memcmp(wanted, from, n) != 0)
            return NULL;
        wanted += n;
        at = to + strlen(QUOTES);
        if (!*wanted) {
            while (at < end && strchr(", \t\r\n", *at))
                at++;
            return at < end && *at == ']' ? "kimi-k2" : NULL;
        }
    }
    return NULL;
}
