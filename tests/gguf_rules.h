/* What the tests of gguf rules share: a forged file, what becomes of it, and one that is valid. */
#ifndef TANDEM_TESTS_GGUF_RULES_H
#define TANDEM_TESTS_GGUF_RULES_H

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "src/format/gguf.h"
#include "src/format/quant.h"
#include "tests/check.h"
#include "tests/gguf_forge.h"
#include "tests/gguf_walk.h"

static struct forge f;

/* Open the forged bytes in a block of exactly their size: a sanitizer sees one byte too far. */
static inline bool open_forged(struct gguf *g, uint8_t **exact, struct error *err)
{
    *exact = malloc(f.n ? f.n : 1);
    if (f.n)
        memcpy(*exact, f.bytes, f.n);
    *err = (struct error){ 0 };
    return gguf_open_memory(g, *exact, f.n, err);
}

static inline void accepted(uint64_t n_kv, uint64_t n_tensors)
{
    struct gguf g;
    struct error err;
    uint8_t *exact;
    if (CHECK_MSG(open_forged(&g, &exact, &err), "%s", err.text)) {
        uint64_t found;
        gguf_walk(&g, &found);
        CHECK_INT(g.n_kv, n_kv);
        CHECK_INT(g.n_tensors, n_tensors);
        CHECK_INT(found, n_kv + n_tensors);
        gguf_close(&g);
    }
    free(exact);
}

/* Refused as a bad file, in words that contain the rule and `word`. */
static inline void refused(const char *rule, const char *word)
{
    struct gguf g;
    struct error err;
    uint8_t *exact;
    if (CHECK_MSG(!open_forged(&g, &exact, &err), "accepted, wanted %s", rule)) {
        CHECK_INT(err.code, ERR_FILE);
        CHECK_MSG(strstr(err.text, rule) && strstr(err.text, word) && strstr(err.text, "byte "),
                  "\"%s\", wanted %s and \"%s\"", err.text, rule, word);
        CHECK(g.arena.last == NULL && g.shards == NULL);
    } else {
        gguf_close(&g);
    }
    free(exact);
}

/* Open whatever it is; it may be right or wrong, but it must be safe. */
static inline bool survive(void)
{
    struct gguf g;
    struct error err;
    uint8_t *exact;
    uint64_t found;
    bool ok = open_forged(&g, &exact, &err);
    if (ok)
        gguf_walk(&g, &found);
    else
        CHECK_MSG(err.code == ERR_FILE || err.code == ERR_FIT, "code %d: %s", (int)err.code,
                  err.text);
    gguf_close(&g);
    free(exact);
    return ok;
}

/* ---- a small valid file ---- */

static const uint64_t shape_a[4] = { 8, 3, 1, 1 }, shape_b[4] = { 32, 2, 2, 1 };

static inline void valid_file(uint32_t version)
{
    forge_header(&f, version, 3, 6);
    forge_key(&f, "general.architecture", GGUF_STRING);
    forge_text(&f, "tiny");
    forge_key(&f, "tiny.block_count", GGUF_U32);
    forge_u32(&f, 2);
    forge_key(&f, "tiny.list", GGUF_ARRAY);
    forge_u32(&f, GGUF_I16);
    forge_u64(&f, 3);
    forge_bytes(&f, "\1\0\2\0\xff\xff", 6);
    forge_key(&f, "tiny.words", GGUF_ARRAY);
    forge_u32(&f, GGUF_STRING);
    forge_u64(&f, 2);
    forge_text(&f, "one");
    forge_text(&f, "");
    forge_key(&f, "tiny.yes", GGUF_BOOL);
    forge_bytes(&f, "\1", 1);
    forge_key(&f, "tiny.scale", GGUF_F64);
    forge_u64(&f, 0x3ff8000000000000u); /* 1.5 */
    forge_tensor(&f, "a.weight", 2, shape_a, TYPE_F32, 0);   /* 96 bytes */
    forge_tensor(&f, "b.weight", 3, shape_b, TYPE_Q4_0, 96); /* 72 bytes */
    forge_tensor(&f, "scalar", 0, shape_a, TYPE_F16, 192);
    forge_pad(&f, 32);
    forge_fill(&f, 194, 7);
}

static inline void one_array(uint32_t elem, uint64_t count, size_t bytes)
{
    forge_header(&f, 3, 0, 1);
    forge_key(&f, "k", GGUF_ARRAY);
    forge_u32(&f, elem);
    forge_u64(&f, count);
    forge_fill(&f, bytes, 0);
}

static inline double resident_mb(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)use.ru_maxrss / 1024;
}

#endif
