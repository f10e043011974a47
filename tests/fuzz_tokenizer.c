/* Fuzz target: a vocabulary made from the input, then the rest of the input encoded with it.
 *
 * The file around the vocabulary is always well formed, or nearly every input would die at the
 * magic (test_gguf and its fuzzer are about that). Token texts, types, scores, merges, ids and
 * counts are the input's. What must hold: no crash, no leak, encoding gives ids inside the
 * vocabulary, any id decodes.
 *
 *     F="-g -O1 -fsanitize=address,undefined"
 *     make CC=clang CFLAGS="$F -fsanitize=fuzzer-no-link" B=build-fuzz build-fuzz/libtandem.a
 *     clang $F -fsanitize=fuzzer -std=c11 -D_GNU_SOURCE -I. -o build-fuzz/tokenizer \
 *         tests/fuzz_tokenizer.c tests/check.c build-fuzz/libtandem.a -lpcre2-8 -lm -pthread
 *
 * test_vocab.c includes this file and feeds it random inputs. */
#include <stdlib.h>

#include "src/text/tokenizer.h"
#include "tests/vocab_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *at;
    size_t left;
};

static unsigned take(struct input *in)
{
    return in->left > 0 ? (in->left--, *in->at++) : 0;
}

/* A short text, mostly of few letters so that tokens and merges meet. */
static size_t take_text(struct input *in, char out[8])
{
    static const char *const letters[] = { "a", "b", "\xC4\xA0", "<", ">", "\xE2\x96\x81", "0x4",
                                           " " };
    size_t n = 0, wanted = take(in) % 5;
    for (size_t i = 0; i < wanted && n < 5; i++) {
        unsigned r = take(in);
        if (r < 0xC0) {
            const char *s = letters[r % 8];
            for (; *s && n < 8; s++)
                out[n++] = *s;
        } else {
            out[n++] = (char)take(in);
        }
    }
    return n;
}

static void forge(struct vocab_file *f, struct input *in)
{
    static const char *const models[] = { "gpt2", "llama", "gpt2", "bert" };
    static const char *const pres[] = { "deepseek-v3", "deepseek-llm", "llama-bpe", "default" };
    static const char *const bytes[] = { "<0x41>", "<0x61>", "<0x+1>", "<0xZZ>", "<0x20>" };
    char text[8];
    unsigned kind = take(in), skip = take(in), n = take(in) % 40;
    vf_start(f);
    vf_str(f, "general.architecture", kind & 0x40 ? "deepseek2" : "other");
    vf_str(f, "tokenizer.ggml.model", models[kind % 4]);
    if (!(skip & 1))
        vf_str(f, "tokenizer.ggml.pre", pres[kind / 4 % 4]);

    vf_array(f, "tokenizer.ggml.tokens", GGUF_STRING, n);
    for (unsigned i = 0; i < n; i++) {
        if (take(in) == 7)
            vf_text(f, str_of(bytes[take(in) % ARRAY_LEN(bytes)]));
        else
            vf_text(f, (struct str){ text, take_text(in, text) });
    }
    if (!(skip & 6)) {
        unsigned n_types = skip & 8 && take(in) < 9 ? take(in) % 40 : n;
        vf_array(f, "tokenizer.ggml.token_type", GGUF_I32, n_types);
        for (unsigned i = 0; i < n_types; i++) {
            unsigned r = take(in);
            vf_n32(f, r < 0xA0 ? 1 : r < 0xF8 ? 1 + r % 5 : r % 8);
        }
    }
    vf_array(f, "tokenizer.ggml.scores", GGUF_F32, n);
    for (unsigned i = 0; i < n; i++) {
        float score = (float)(take(in) % 7) - 3;
        vf_bytes(f, &score, 4);
    }
    unsigned n_merges = take(in) % 30;
    vf_array(f, "tokenizer.ggml.merges", GGUF_STRING, n_merges);
    for (unsigned i = 0; i < n_merges; i++) {
        char merge[24];
        size_t len = take_text(in, text);
        memcpy(merge, text, len);
        merge[len++] = ' ';
        size_t right = take_text(in, text);
        memcpy(merge + len, text, right);
        vf_text(f, (struct str){ merge, len + right });
    }
    if (skip & 16)
        vf_u32(f, "tokenizer.ggml.eos_token_id", take(in) % 48);
    if (skip & 32)
        vf_bool(f, "tokenizer.ggml.add_space_prefix", take(in) & 1);
}

static void use(const struct tokenizer *t, struct str text)
{
    struct error err = { 0 };
    for (int special = 0; special < 2; special++) {
        struct tokens ids = { 0 };
        if (!tokenizer_encode(t, text, special, &ids, &err))
            abort();
        for (size_t i = 0; i < ids.n; i++)
            if (ids.ids[i] < 0 || ids.ids[i] >= tokenizer_n_tokens(t))
                abort();
        tokens_release(&ids);
    }
    for (int32_t id = -2; id < tokenizer_n_tokens(t) + 2; id++) {
        struct str s = tokenizer_bytes(t, id, true);
        if (utf8_complete(s) > s.len)
            abort();
        (void)tokenizer_is_end(t, id);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = { data, size };
    struct vocab_file f;
    struct gguf g = { 0 };
    struct error err = { 0 };
    struct tokenizer *t = NULL;
    forge(&f, &in);
    if (gguf_open_memory(&g, f.bytes, vf_finish(&f), &err) && tokenizer_open(&t, &g, &err) && t)
        use(t, (struct str){ (const char *)in.at, in.left });
    tokenizer_close(t);
    gguf_close(&g);
    vf_release(&f);
    return 0;
}
