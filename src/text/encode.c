#include "src/text/encode.h"

#include "src/base/mem.h"
#include "src/text/maps.h"

#define MOST_SEEN 8192       /* entries: 320 KB, stays in the second-level cache */
#define LONGEST_SEEN 64      /* bytes; longer pieces hardly repeat */
#define BYTES_PER_ENTRY 32   /* of text: a chat turn pays for a few entries only */

bool encoder_init(struct encoder *e, struct tokens *out, size_t bytes, struct error *err)
{
    *e = (struct encoder){ .out = out, .seed = hash_seed(), .epoch = 1 };
    size_t n = 16;
    while (n < MOST_SEEN && n < bytes / BYTES_PER_ENTRY)
        n *= 2;
    if (bytes < 16 * BYTES_PER_ENTRY)
        return true;
    e->mask = n - 1;
    e->seen = mem_alloc(n, sizeof *e->seen, "encoder", err);
    return e->seen != NULL;
}

void encoder_release(struct encoder *e)
{
    merger_release(&e->merger);
    mem_free(e->seen);
    *e = (struct encoder){ 0 };
}

void encoder_forget(struct encoder *e)
{
    e->epoch++;
}

bool encoder_recall(struct encoder *e, struct str piece, struct encoded_piece **entry, bool *ok,
                    struct error *err)
{
    *entry = NULL;
    if (!e->seen || piece.len > LONGEST_SEEN)
        return false;
    struct encoded_piece *s = &e->seen[hash_bytes(piece, e->seed) & e->mask];
    if (s->epoch != e->epoch || s->piece.len != piece.len ||
        memcmp(s->piece.data, piece.data, piece.len) != 0) {
        *entry = s;
        return false;
    }
    *ok = true;
    for (uint32_t i = 0; *ok && i < s->n_ids; i++)
        *ok = tokens_push(e->out, e->out->ids[s->first_id + i], err);
    return true;
}
