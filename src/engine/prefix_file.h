/* Timelines with their cache, kept in a file, so that nobody computes them twice.
 *
 * The file is a tree: every segment goes on from a position of an earlier one, so conversations and
 * prompts that begin alike share their beginning. Only what is new is appended. Whatever a segment
 * says is found by its tokens: a session is brought to the longest prefix of the wanted tokens that
 * the file holds, and computes the rest itself. So a file that lost its end, or all of it, costs
 * time and nothing else.
 *
 *   head     0  8  "tndmcach"
 *            8  4  version (1)
 *           12  4  CRC-32C of bytes 16 .. 47
 *           16  8  whose caches: engine_fingerprint
 *           24  4  CRC-32C of the list of parts (names, kinds, sizes)
 *           28  20 zero
 *   segment  0  4  "segm"
 *            4  4  CRC-32C of bytes 8 .. 55 and of the tokens
 *            8  8  bytes of the segment in all, this head included
 *           16  8  from: the first position
 *           24  8  to: behind the last one
 *           32  4  number of the segment that it goes on from, -1: none
 *           36  4  CRC-32C of the list of draft parts, 0: there are none
 *           40  4  1: and the state of the last position behind them
 *           44  8  newest: so many positions the rings had seen when this was written, or `to`
 *           52  4  zero
 *           56  4n the tokens
 *               .. what those positions add to each part of the cache, in order (cache_part_added;
 *                  of a ring all it holds, where the segment branches off inside another), then to
 *                  the draft's
 *               4  CRC-32C of these bytes
 *
 * A segment counts once it is there whole and its sums agree, so killing the writer at any moment
 * leaves the file as it was before. Numbers are little-endian. Mode 0600; one program writes at a
 * time, others that open it meanwhile read what was complete. */
#ifndef TANDEM_ENGINE_PREFIX_FILE_H
#define TANDEM_ENGINE_PREFIX_FILE_H

#include "src/engine/engine.h"

struct prefix_file;

/* The model alone: headers and samples of its weights. Reads a few hundred KB. */
uint64_t file_fingerprint(const struct gguf *g);

/* The model, the numerics and the type of the cache: sessions
 * of equal fingerprints can take over each other's caches. */
uint64_t engine_fingerprint(const struct engine *e);

/* Open, or create, the file for sessions like s. What is not whole at its end is cut off. ERR_FILE,
 * the file untouched: no such file, a damaged head, another version, or of another model, numerics
 * or type of cache. ERR_RUN: cannot be opened or created. */
bool prefix_file_open(struct prefix_file **out, const char *path, struct session *s,
                      struct error *err);
void prefix_file_close(struct prefix_file *f); /* NULL is fine */

/* Bytes in the file; does it hold anything; did a part of it turn out to be damaged (which was then
 * left out)? */
uint64_t prefix_file_bytes(const struct prefix_file *f);
bool prefix_file_damaged(const struct prefix_file *f);

/* Bring the session to the longest prefix of tokens[0 .. n-1] that can be had, where the file holds
 * more of them than the session does; else it stays as it is. *n_read: positions that came from the
 * file. Its logits are not known then: session_prefill computes at least the last token. Progress
 * (may be NULL) counts bytes and may stop. ERR_INTERRUPTED, the device's errors: the session holds a
 * prefix of what it held. */
bool prefix_file_restore(struct prefix_file *f, struct session *s, const int32_t *tokens, int64_t n,
                         int64_t *n_read, load_progress *progress, void *ctx, struct error *err);

/* Is all that the session has computed there, so that it could be restored? */
bool prefix_file_holds(const struct prefix_file *f, struct session *s);

/* Append what the file lacks of the session's timeline; nothing when it was opened while another
 * program wrote. A file that would grow beyond max_bytes (0: no limit) first begins anew, under a
 * temporary name, with nothing in it but what leads to this timeline. ERR_RUN: the disk is full,
 * the model's file was changed meanwhile, ...: the file is as before. */
bool prefix_file_save(struct prefix_file *f, struct session *s, uint64_t max_bytes,
                      struct error *err);

#endif
