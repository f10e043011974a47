/* Tokenizers built from small vocabularies made here: the rules one by one, damaged and hostile
 * files, failing allocations. Needs no fixtures. Merging at random: test_merge. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/text/presplit.h"
#include "src/text/tokenizer.h"
#include "tests/check.h"
#include "tests/fuzz_tokenizer.c"
#include "tests/vocab_file.h"

#define BAR "\xEF\xBD\x9C" /* U+FF5C, the bar of DeepSeek's markers */
#define LOW "\xE2\x96\x81"    /* U+2581, the space of SPM */

/* ---- Two small vocabularies ---- */

static const char *const bpe_tokens[] = {
    "h", "e", "l", "o", "w", "r", "d", "\xC4\xA0", /* 0-7, the last is the space */
    "he", "ll", "hell", "hello", "\xC4\xA0w",      /* 8-12 */
    "\xC3\xA4", "\xC2\xBD", "\xC2\xA0",            /* 13-15: bytes E4, BD; 15 stands for itself */
    "<" BAR "begin" BAR ">", "<" BAR "end" LOW "of" LOW "sentence" BAR ">", /* 16, 17 */
    "<think>", "<th", "",                          /* 18-20 */
    "<" BAR "User" BAR ">", "[PAD22]", "\xC3\xB8", /* 21-23; 23 is the letter with a stroke */
    "<|im_end|>", "\xC3\xAF", "\xC2\xBF",          /* 24-26: 25, 26 are bytes EF, BF */
};
static const int32_t bpe_types[] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                     3, 3, 4, 4, 4, 4, 5, 4, 1, 1, 1 };
static const char *const bpe_merges[] = { "h e", "l l", "he ll", "hell o", "\xC4\xA0 w" };

static void start_bpe(struct opened *o, const char *pre)
{
    vf_start(&o->file);
    vf_str(&o->file, "tokenizer.ggml.model", "gpt2");
    if (pre)
        vf_str(&o->file, "tokenizer.ggml.pre", pre);
    vf_strs(&o->file, "tokenizer.ggml.tokens", bpe_tokens, ARRAY_LEN(bpe_tokens));
    vf_i32s(&o->file, "tokenizer.ggml.token_type", bpe_types, ARRAY_LEN(bpe_types));
    vf_strs(&o->file, "tokenizer.ggml.merges", bpe_merges, ARRAY_LEN(bpe_merges));
}

static const char *const spm_tokens[] = {
    "<unk>", "<s>", "</s>", "<0x41>", "<0xE4>", "<0x0A>", /* 0-5 */
    LOW, "h", "e", "l", "o", LOW "h", "he", "ll", LOW "he", LOW "hello", "lo", /* 6-16 */
};
static const int32_t spm_types[] = { 2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
static const float spm_scores[] = { 0,  0,  0,  0,  0,  0,  -9, -8, -8,
                                    -8, -8, -2, -1, -3, -4, -5, -3 };

static void start_spm(struct opened *o)
{
    vf_start(&o->file);
    vf_str(&o->file, "tokenizer.ggml.model", "llama");
    vf_strs(&o->file, "tokenizer.ggml.tokens", spm_tokens, ARRAY_LEN(spm_tokens));
    vf_i32s(&o->file, "tokenizer.ggml.token_type", spm_types, ARRAY_LEN(spm_types));
    vf_f32s(&o->file, "tokenizer.ggml.scores", spm_scores, ARRAY_LEN(spm_scores));
}

/* ---- The rules ---- */

static void check_bpe_rules(void)
{
    struct opened o;
    check_case("BPE: merging");
    start_bpe(&o, "deepseek-v3");
    vf_u32(&o.file, "tokenizer.ggml.bos_token_id", 16);
    vf_u32(&o.file, "tokenizer.ggml.eos_token_id", 17);
    vf_bool(&o.file, "tokenizer.ggml.add_bos_token", true);
    CHECK_MSG(open_file(&o), "%s", o.err.text);
    check_encode(&o, str_of("hello world"), false, "11 12 3 5 2 6");
    check_encode(&o, str_of("hellhelo"), false, "10 8 2 3");
    check_encode(&o, str_of("hello hello hello hello"), false, "11 7 11 7 11 7 11");
    check_encode(&o, str_of(""), true, "");

    check_case("BPE: bytes without a token give no id");
    check_encode(&o, str_of("hexhe"), false, "8 8");

    check_case("BPE: bytes decode to themselves, malformed ones encode as U+FFFD");
    check_encode(&o, (struct str){ "\xE4", 1 }, false, "25 26 14"); /* EF BF BD */
    check_encode(&o, (struct str){ "h\xE4\xBD", 3 }, false, "0 25 26 14 25 26 14");
    CHECK_INT((unsigned char)tokenizer_bytes(o.t, 13, false).data[0], 0xE4);
    CHECK_INT(tokenizer_bytes(o.t, 13, false).len, 1);
    CHECK(str_is(tokenizer_bytes(o.t, 7, false), " "));
    CHECK(str_is(tokenizer_bytes(o.t, 12, false), " w"));
    CHECK(str_is(tokenizer_bytes(o.t, 15, false), "\xC2\xA0")); /* not of the alphabet */

    check_case("special tokens: the leftmost, then the longest");
    check_encode(&o, str_of("<think>he<th"), false, "18 8 19");
    check_encode(&o, str_of("<th<think>"), true, "19 18");
    check_encode(&o, str_of("he" "<" BAR "begin" BAR ">" "he"), true, "8 16 8");
    check_encode(&o, str_of("\xC3\xB8h\xC3\xB8"), false, "23 0 23");
    check_encode(&o, str_of("[PAD22]"), true, "");

    check_case("control tokens and markers are plain text unless asked for");
    struct tokens plain = { 0 };
    const char *markers = "<" BAR "begin" BAR ">" "<" BAR "User" BAR ">";
    CHECK(tokenizer_encode(o.t, str_of(markers), false, &plain, &o.err));
    for (size_t i = 0; i < plain.n; i++)
        CHECK(plain.ids[i] != 16 && plain.ids[i] != 21);
    tokens_release(&plain);
    check_encode(&o, str_of(markers), true, "16 21");
    CHECK_INT(tokenizer_type(o.t, 21), TOKEN_CONTROL);
    CHECK_INT(tokenizer_type(o.t, 18), TOKEN_USER_DEFINED);

    check_case("control and unused tokens have bytes only on request, ids outside never");
    CHECK_INT(tokenizer_bytes(o.t, 16, false).len, 0);
    CHECK(str_is(tokenizer_bytes(o.t, 16, true), "<" BAR "begin" BAR ">"));
    CHECK_INT(tokenizer_bytes(o.t, 22, false).len, 0);
    CHECK(str_is(tokenizer_bytes(o.t, 18, false), "<think>"));
    CHECK(str_is(tokenizer_bytes(o.t, 23, false), "\xC3\xB8"));
    CHECK_INT(tokenizer_bytes(o.t, -1, true).len, 0);
    CHECK_INT(tokenizer_bytes(o.t, 27, true).len, 0);
    CHECK_INT(tokenizer_bytes(o.t, INT32_MIN, true).len, 0);

    check_case("finding a token by its text");
    CHECK_INT(tokenizer_find(o.t, "<think>"), 18);
    CHECK_INT(tokenizer_find(o.t, "<" BAR "begin" BAR ">"), 16);
    CHECK_INT(tokenizer_find(o.t, " w"), 12);
    CHECK_INT(tokenizer_find(o.t, "<thin"), -1);
    CHECK_INT(tokenizer_find(o.t, ""), -1);

    check_case("ids, keys and the end of generation");
    CHECK_INT(tokenizer_bos(o.t), 16);
    CHECK_INT(tokenizer_eos(o.t), 17);
    CHECK(tokenizer_add_bos(o.t) && !tokenizer_add_eos(o.t) && !tokenizer_adds_space(o.t));
    CHECK(tokenizer_is_end(o.t, 17));
    CHECK(!tokenizer_is_end(o.t, 24)); /* the right text, but a normal token */
    CHECK(!tokenizer_is_end(o.t, 16) && !tokenizer_is_end(o.t, -1) && !tokenizer_is_end(o.t, 99));
    close_file(&o);
}

static void check_spm_rules(void)
{
    struct opened o;
    check_case("SPM: best score first, spaces, bytes");
    start_spm(&o);
    CHECK_MSG(open_file(&o), "%s", o.err.text);
    check_encode(&o, str_of("hello"), false, "14 13 10");
    check_encode(&o, str_of("hello  he\n"), false, "14 13 10 6 14 5");
    check_encode(&o, str_of("A\xE4"), false, "6 3 4");
    check_encode(&o, str_of("\xE4\xBD"), false, "6 4 0"); /* no token for BD: unknown */
    check_encode(&o, str_of("he<s>he"), true, "14 1 14");
    check_encode(&o, str_of("he<unk></s>"), true, "14 0 2");
    check_encode(&o, str_of(""), false, "");
    CHECK(str_is(tokenizer_bytes(o.t, 15, false), " hello"));
    CHECK(str_is(tokenizer_bytes(o.t, 3, false), "A"));

    check_case("SPM: defaults of missing keys");
    CHECK_INT(tokenizer_bos(o.t), 1);
    CHECK_INT(tokenizer_eos(o.t), 2);
    CHECK(tokenizer_add_bos(o.t) && !tokenizer_add_eos(o.t) && tokenizer_adds_space(o.t));
    CHECK(tokenizer_is_end(o.t, 2));
    CHECK(str_is(tokenizer_pre(o.t), "spm"));
    close_file(&o);

    check_case("SPM: keys win");
    start_spm(&o);
    vf_bool(&o.file, "tokenizer.ggml.add_space_prefix", false);
    vf_bool(&o.file, "tokenizer.ggml.add_bos_token", false);
    vf_bool(&o.file, "tokenizer.ggml.add_eos_token", true);
    CHECK_MSG(open_file(&o), "%s", o.err.text);
    check_encode(&o, str_of("hello"), false, "12 13 10");
    CHECK(!tokenizer_add_bos(o.t) && tokenizer_add_eos(o.t) && !tokenizer_adds_space(o.t));
    close_file(&o);
}

static int n_warnings;

static void count_warnings(void *ctx, enum log_level level, const char *line)
{
    (void)ctx, (void)line;
    n_warnings += level == LOG_WARNING;
}

/* Open the BPE vocabulary padded to n_tokens, without a pre-tokenizer's name. */
static void check_guess(const char *arch, const char *pre_key, int n_tokens, const char *wanted)
{
    check_case("pre \"%s\", architecture %s, %d tokens", pre_key ? pre_key : "(missing)", arch,
               n_tokens);
    struct opened o;
    vf_start(&o.file);
    vf_str(&o.file, "general.architecture", arch);
    vf_str(&o.file, "tokenizer.ggml.model", "gpt2");
    if (pre_key)
        vf_str(&o.file, "tokenizer.ggml.pre", pre_key);
    vf_array(&o.file, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)n_tokens);
    for (int i = 0; i < n_tokens; i++)
        vf_text(&o.file, str_of(i < 3 ? bpe_tokens[i] : ""));
    vf_strs(&o.file, "tokenizer.ggml.merges", bpe_merges, 0);
    n_warnings = 0;
    bool ok = open_file(&o);
    if (wanted) {
        CHECK_MSG(ok, "%s", o.err.text);
        CHECK(ok && str_is(tokenizer_pre(o.t), wanted));
        CHECK(ok && tokenizer_add_bos(o.t) == (strcmp(wanted, "llama-bpe") == 0));
        CHECK_INT(n_warnings, pre_key && presplit_name(str_of(pre_key)) ? 0 : 1);
    } else {
        CHECK_INT(o.err.code, ERR_FILE);
        CHECK(strstr(o.err.text, "tokenizer.ggml.pre"));
    }
    close_file(&o);
}

static void check_guesses(void)
{
    log_set_sink(count_warnings, NULL);
    check_guess("llama", NULL, 102400, "deepseek-llm");
    check_guess("llama", "default", 32256, "deepseek-coder");
    check_guess("deepseek2", NULL, 129280, "deepseek-v3");
    check_guess("qwen2", "", 151936, "qwen2");
    check_guess("llama", NULL, 128256, "llama-bpe");
    check_guess("deepseek2", NULL, 500, "deepseek-v3");
    check_guess("deepseek2", "llama3", 500, "llama-bpe");
    check_guess("mystery", NULL, 500, NULL);
    check_guess("deepseek2", "mystery", 500, NULL);
    log_set_sink(NULL, NULL);
}

static void check_no_vocabulary(void)
{
    check_case("no vocabulary is no error");
    struct opened o;
    vf_start(&o.file);
    vf_str(&o.file, "general.architecture", "deepseek2");
    CHECK(open_file(&o) && !o.t);
    close_file(&o);
    vf_start(&o.file);
    vf_str(&o.file, "tokenizer.ggml.model", "no_vocab");
    CHECK(open_file(&o) && !o.t);
    close_file(&o);
    tokenizer_close(NULL);
}

/* ---- Damaged files ---- */

enum damage {
    NO_TOKENS, ZERO_TOKENS, SHORT_TYPES, TYPE_ZERO, TYPE_SEVEN, TYPES_ARE_FLOATS, NO_MERGES,
    MERGE_ONE_PART, MERGE_EMPTY_LEFT, MERGE_EMPTY_RIGHT, MERGE_THREE_PARTS, EOS_OUTSIDE,
    PAD_OUTSIDE, FIM_OUTSIDE, BYTE_SIGN, BYTE_SHORT, BYTE_LETTERS, LONG_TOKEN, LONG_SPECIAL,
    UNKNOWN_MODEL, SPM_NO_SCORES, SPM_SHORT_SCORES, SPM_NAN_SCORE, N_DAMAGES
};

static const char *const damage_says[N_DAMAGES] = {
    "tokens", "tokens", "token_type", "token_type", "token_type", "token_type", "merges",
    "merges", "merges", "merges", "merges", "eos_token_id",
    "padding_token_id", "fim_pre_token_id", "<0x+1>", "<0x1>", "<0xgg>", "65537", "257", "bert",
    "scores", "scores", "scores",
};

static void forge_damaged(struct vocab_file *f, enum damage d)
{
    static char long_token[65536 + 2];
    memset(long_token, 'a', sizeof long_token - 1);
    const char *tokens[] = { "a", "b", "ab", "</s>" };
    int32_t types[] = { 1, 1, 1, 3 };
    float scores[] = { 0, 0, 1, 0 };
    const char *merges[] = { "a b" };
    bool spm = d >= SPM_NO_SCORES;
    size_t n_tokens = d == ZERO_TOKENS ? 0 : 4, n_types = d == SHORT_TYPES ? 3 : n_tokens;

    types[3] = d == TYPE_ZERO ? 0 : d == TYPE_SEVEN ? 7 : 3;
    if (d == BYTE_SIGN || d == BYTE_SHORT || d == BYTE_LETTERS) {
        types[1] = 6;
        tokens[1] = damage_says[d];
    }
    if (d == LONG_TOKEN)
        tokens[1] = long_token;
    if (d == LONG_SPECIAL)
        tokens[3] = long_token + sizeof long_token - 1 - 257;
    merges[0] = d == MERGE_ONE_PART      ? "ab"
                : d == MERGE_EMPTY_LEFT  ? " ab"
                : d == MERGE_EMPTY_RIGHT ? "ab "
                : d == MERGE_THREE_PARTS ? "a b b"
                                         : "a b";
    scores[1] = d == SPM_NAN_SCORE ? strtof("nan", NULL) : 0;

    vf_start(f);
    vf_str(f, "tokenizer.ggml.model", d == UNKNOWN_MODEL ? "bert" : spm ? "llama" : "gpt2");
    vf_str(f, "tokenizer.ggml.pre", "deepseek-v3");
    if (d != NO_TOKENS)
        vf_strs(f, "tokenizer.ggml.tokens", tokens, n_tokens);
    if (d == TYPES_ARE_FLOATS)
        vf_f32s(f, "tokenizer.ggml.token_type", scores, 4);
    else
        vf_i32s(f, "tokenizer.ggml.token_type", types, n_types);
    if (d != NO_MERGES)
        vf_strs(f, "tokenizer.ggml.merges", merges, 1);
    if (d != SPM_NO_SCORES)
        vf_f32s(f, "tokenizer.ggml.scores", scores, d == SPM_SHORT_SCORES ? 3 : 4);
    vf_u32(f, "tokenizer.ggml.eos_token_id", d == EOS_OUTSIDE ? 4 : 3);
    vf_u32(f, "tokenizer.ggml.padding_token_id", d == PAD_OUTSIDE ? UINT32_MAX : 3);
    vf_u32(f, "tokenizer.ggml.fim_pre_token_id", d == FIM_OUTSIDE ? 4 : 3);
}

static void check_damaged(void)
{
    for (int d = 0; d <= N_DAMAGES; d++) {
        check_case("damaged vocabulary %d: %s", d, d < N_DAMAGES ? damage_says[d] : "none");
        struct opened o;
        forge_damaged(&o.file, d);
        bool ok = open_file(&o);
        if (d == N_DAMAGES) { /* the same file undamaged */
            CHECK_MSG(ok, "%s", o.err.text);
        } else {
            CHECK(!ok && !o.t);
            CHECK_INT(o.err.code, ERR_FILE);
            CHECK_MSG(strstr(o.err.text, damage_says[d]), "\"%s\"", o.err.text);
        }
        close_file(&o);
    }
}

/* ---- Hostile but legal ---- */

/* Encode `n` times `unit`; the ids, all inside the vocabulary, are counted. */
static size_t encode_many(struct opened *o, const char *unit, size_t n)
{
    size_t len = strlen(unit);
    char *text = malloc(n * len + 1);
    for (size_t i = 0; i < n; i++)
        memcpy(text + i * len, unit, len);
    struct tokens ids = { 0 };
    bool ok = tokenizer_encode(o->t, (struct str){ text, n * len }, true, &ids, &o->err);
    CHECK_MSG(ok, "%s", o->err.text);
    for (size_t i = 0; i < ids.n; i++)
        CHECK(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_n_tokens(o->t));
    size_t n_ids = ids.n;
    tokens_release(&ids);
    free(text);
    return n_ids;
}

/* A vocabulary of `n` tokens, all `text` of type `type`, with or without merges of them. */
static void check_equal_tokens(const char *model, const char *text, int n, int32_t type)
{
    check_case("%s: %d times the token \"%s\", type %d", model, n, text, type);
    struct opened o;
    vf_start(&o.file);
    vf_str(&o.file, "tokenizer.ggml.model", model);
    vf_str(&o.file, "tokenizer.ggml.pre", "deepseek-llm");
    vf_array(&o.file, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)n);
    for (int i = 0; i < n; i++)
        vf_text(&o.file, str_of(text));
    vf_array(&o.file, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)n);
    for (int i = 0; i < n; i++)
        vf_n32(&o.file, (uint32_t)type);
    vf_array(&o.file, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)n);
    for (int i = 0; i < n; i++)
        vf_n32(&o.file, 0);
    vf_array(&o.file, "tokenizer.ggml.merges", GGUF_STRING, 2);
    vf_text(&o.file, str_of("a a"));
    vf_text(&o.file, str_of("aa a"));
    CHECK_MSG(open_file(&o), "%s", o.err.text);
    if (o.t)
        encode_many(&o, "a", 1 << 20);
    close_file(&o);
}

/* Tokens a, aa, aaaa, ... and merges of each with itself, forward or the long ones first; then a
 * million merges that name nothing. One megabyte of one letter must end quickly. */
static void check_doubling(bool long_first, uint64_t n_unknown)
{
    enum { N = 16 };
    check_case("a megabyte of one letter, %s, %llu unknown merges",
               long_first ? "long merges first" : "short merges first",
               (unsigned long long)n_unknown);
    struct opened o;
    static char a[1 << (N - 1)];
    memset(a, 'a', sizeof a);
    vf_start(&o.file);
    vf_str(&o.file, "tokenizer.ggml.model", "gpt2");
    vf_str(&o.file, "tokenizer.ggml.pre", "deepseek-v3");
    vf_array(&o.file, "tokenizer.ggml.tokens", GGUF_STRING, N);
    for (int i = 0; i < N; i++)
        vf_text(&o.file, (struct str){ a, (size_t)1 << i });
    vf_array(&o.file, "tokenizer.ggml.merges", GGUF_STRING, N - 1 + n_unknown);
    for (int i = 0; i < N - 1; i++) {
        size_t len = (size_t)1 << (long_first ? N - 2 - i : i);
        vf_n64(&o.file, 2 * len + 1);
        vf_bytes(&o.file, a, len);
        vf_bytes(&o.file, " ", 1);
        vf_bytes(&o.file, a, len);
    }
    char merge[32];
    for (uint64_t i = 0; i < n_unknown; i++) {
        sprintf(merge, "a%llu b", (unsigned long long)i % 5000);
        vf_text(&o.file, str_of(merge));
    }
    double start = check_cpu_s();
    CHECK_MSG(open_file(&o), "%s", o.err.text);
    size_t n = (size_t)1 << 20;
    if (!long_first) /* each round merges all neighbours: the longest token covers everything */
        CHECK_INT(encode_many(&o, "a", n), n >> (N - 1));
    else
        CHECK(encode_many(&o, "a", n) > 0);
    CHECK_MSG(check_cpu_s() - start < 30, "took %.1f s", check_cpu_s() - start);
    close_file(&o);
}

static void check_hostile(void)
{
    check_equal_tokens("gpt2", "a", 1, 1);
    check_equal_tokens("llama", "a", 1, 1);
    check_equal_tokens("gpt2", "a", 100000, 1);
    check_equal_tokens("llama", "a", 100000, 1);
    check_equal_tokens("gpt2", "a", 5000, 4);
    check_equal_tokens("gpt2", "", 100, 3);
    check_equal_tokens("gpt2", "aa", 3, 1); /* no token for the letter alone */
    check_doubling(false, 0);
    check_doubling(true, 0);
    check_doubling(false, 1000000);

    check_case("special tokens that nearly match everywhere");
    struct opened o;
    char text[257];
    vf_start(&o.file);
    vf_str(&o.file, "tokenizer.ggml.model", "gpt2");
    vf_str(&o.file, "tokenizer.ggml.pre", "deepseek-v3");
    vf_array(&o.file, "tokenizer.ggml.tokens", GGUF_STRING, 256);
    for (int i = 0; i < 256; i++) {
        memset(text, 'a', sizeof text);
        text[i] = 'b';
        vf_text(&o.file, (struct str){ text, (size_t)i + 1 });
    }
    vf_array(&o.file, "tokenizer.ggml.token_type", GGUF_I32, 256);
    for (int i = 0; i < 256; i++)
        vf_n32(&o.file, 4);
    vf_array(&o.file, "tokenizer.ggml.merges", GGUF_STRING, 0);
    double start = check_cpu_s();
    CHECK_MSG(open_file(&o), "%s", o.err.text);
    CHECK_INT(encode_many(&o, "a", 1 << 18), 0);
    CHECK_INT(encode_many(&o, "aab", 1000), 1000);
    CHECK_MSG(check_cpu_s() - start < 30, "took %.1f s", check_cpu_s() - start);
    close_file(&o);
}

/* ---- Memory ---- */

static void check_memory(const char *name, void (*start)(struct opened *))
{
    check_case("%s: every allocation may fail", name);
    struct opened o;
    struct str text = str_of("hello hello \xFF he <think> hello<s> \xE4\xBD hello hello hello");
    for (uint64_t n = 0; n < 300; n++) {
        start(&o);
        mem_fail_after(n);
        struct tokens ids = { 0 };
        bool ok = open_file(&o) && tokenizer_encode(o.t, text, true, &ids, &o.err);
        mem_fail_never();
        if (!ok)
            CHECK_INT(o.err.code, ERR_FIT);
        CHECK(ok || ids.n == 0);
        tokens_release(&ids);
        close_file(&o);
        if (ok)
            return;
    }
    CHECK_MSG(false, "never ran to the end");
}

static void start_v3(struct opened *o)
{
    start_bpe(o, "deepseek-v3");
}

/* ---- Random inputs through the fuzz target ---- */

static void check_fuzz(void)
{
    check_case("random vocabularies neither crash nor leak");
    for (int i = 0; i < 4000; i++) {
        uint8_t data[600];
        size_t n = check_random() % sizeof data;
        for (size_t k = 0; k < n; k++)
            data[k] = (uint8_t)(check_random() >> 32);
        LLVMFuzzerTestOneInput(data, n);
    }
    CHECK(true);
}

int main(void)
{
    check_bpe_rules();
    check_spm_rules();
    check_guesses();
    check_no_vocabulary();
    check_damaged();
    check_hostile();
    check_memory("BPE", start_v3);
    check_memory("SPM", start_spm);
    check_fuzz();
    return check_finish();
}
