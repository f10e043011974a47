/* Random models whose block for multi-token prediction often guesses right, as a trained one does: what
 * follows a token is made to depend on little but that token, in the model and in its block.
 *
 *     token_embd  * 50: next to it, what the layers add is small
 *     eh_proj     20 times the identity for the token's half, 6 times what it was for the state's
 *
 * So guesses fail now and then, where the layers do have a word, and which ones depends on the states. */
#ifndef TANDEM_TESTS_DRAFT_MODEL_H
#define TANDEM_TESTS_DRAFT_MODEL_H

#include "src/format/gguf.h"
#include "tests/tiny_model.h"

#define DRAFT_MODEL_LOUD 50.0f
#define DRAFT_MODEL_ECHO 20.0f
#define DRAFT_MODEL_STATE 6.0f
#define DRAFT_MODEL_HIDDEN 64 /* of all tiny models */

/* Put what change() makes of a matrix of floats into the file. */
static inline bool draft_model_patch(const char *path, const char *name,
                                     float (*change)(float old, uint64_t row, uint64_t col))
{
    struct gguf g = { 0 };
    struct error err = { 0 };
    if (!CHECK_MSG(gguf_open(&g, path, &err), "%s", err.text))
        return false;
    const struct tensor *t = gguf_tensor(&g, name);
    bool ok = CHECK_MSG(t && t->type == TYPE_F32, "%s", name);
    float *values = ok ? malloc(t->bytes) : NULL, *before = ok ? malloc(t->bytes) : NULL;
    if (values && before) {
        memcpy(values, t->data, t->bytes);
        for (uint64_t i = 0; i < t->ne[0] * t->ne[1]; i++)
            values[i] = change(values[i], i / t->ne[0], i % t->ne[0]);
        ok = CHECK(tiny_patch(path, (long)t->file_offset, values, before, t->bytes));
    }
    free(values);
    free(before);
    gguf_close(&g);
    return ok;
}

static inline float draft_model_louder(float old, uint64_t row, uint64_t col)
{
    (void)row, (void)col;
    return DRAFT_MODEL_LOUD * old;
}

static inline float draft_model_echo(float old, uint64_t row, uint64_t col)
{
    if (col >= DRAFT_MODEL_HIDDEN)
        return DRAFT_MODEL_STATE * old;
    return row == col ? DRAFT_MODEL_ECHO : 0;
}

/* A tiny model in F32 with such a block behind n_layers layers; options as for tiny_write. */
static inline bool draft_model_write(const char *path, const char *options, int n_layers)
{
    char all[256], name[64];
    snprintf(all, sizeof all, "%s%s", options,
             strstr(options, "--generation") ? "" : " --generation b-mtp");
    snprintf(name, sizeof name, "blk.%d.nextn.eh_proj.weight", n_layers);
    return tiny_write(path, all) && draft_model_patch(path, "token_embd.weight", draft_model_louder) &&
           draft_model_patch(path, name, draft_model_echo);
}

#endif
