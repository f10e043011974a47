/* Fuzz target of the GGUF reader: whatever it accepts must be safe to walk.
 *
 *     make fuzz            one minute on a corpus of small valid files, needs clang
 *     make fuzz FUZZ_S=600 longer
 *
 * The custom mutator repairs what random changes break first: it puts the magic and a version back,
 * so that the effort goes into the tables. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "src/format/quant.h"
#include "tests/gguf_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* Decode the first block of a tensor: any bits must be safe. */
static void decode_one(const struct tensor *t)
{
    const struct quant_traits *traits = quant_traits(t->type);
    float out[256];
    if (traits->dequantize)
        traits->dequantize(t->data, out, traits->block_elements);
    quant_bad_block(t->type, t->data, (int64_t)t->ne[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf g;
    struct error err = { 0 };
    if (!gguf_open_memory(&g, data, size, &err)) {
        if (err.code != ERR_FILE || !err.text[0])
            abort();
        return 0;
    }
    uint64_t found;
    gguf_walk(&g, &found);
    if (found != g.n_kv + g.n_tensors)
        abort();
    for (uint64_t i = 0; i < g.n_tensors; i++)
        decode_one(&g.tensors[i]);
    gguf_close(&g);
    return 0;
}

/* Most random edits keep the file's grammar broken in the same early place; adjust a plausible
 * number instead: find a small little-endian u64 and change it by a little. */
static void nudge_number(uint8_t *data, size_t size, unsigned seed)
{
    if (size < 32)
        return;
    size_t at = 8 + seed % (size - 16);
    for (size_t tries = 0; tries < 64 && at + 8 <= size; tries++, at++) {
        if (data[at] && !data[at + 2] && !data[at + 3] && !data[at + 4] && !data[at + 7]) {
            data[at] = (uint8_t)(data[at] + (seed >> 16) % 5 - 2);
            return;
        }
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    if (seed % 4 == 0)
        nudge_number(data, size, seed / 4);
    else
        size = LLVMFuzzerMutate(data, size, max_size);
    if (size >= 8) {
        memcpy(data, "GGUF\3\0\0\0", 8);
        if (seed % 16 == 5)
            data[4] = 2;
    }
    return size;
}
