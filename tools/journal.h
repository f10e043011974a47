/* What a long job has finished, on disk, so that it survives a kill (C-02).
 *
 *   bytes  0  8   "tndmjrnl"
 *          8  4   version (1)
 *         12  4   length of the plan text
 *         16  4   CRC-32C of the plan text
 *         20  n   the plan: lines that say what is being made from what
 *   then records of 16 bytes:
 *          0  8   number of the chunk
 *          8  4   CRC-32C of the chunk's bytes in the output
 *         12  4   CRC-32C of the 12 bytes before
 *
 * A record is appended only after the data it speaks of was flushed, so whatever a record says is
 * on the disk, too. A torn tail is cut off. Before a chunk is believed its bytes are read again and
 * compared with the record. The file stands beside the unfinished output, as ".NAME.journal", and
 * is locked while it is open: a second run for the same output is refused. */
#ifndef TANDEM_TOOLS_JOURNAL_H
#define TANDEM_TOOLS_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/crc32c.h"
#include "src/base/error.h"

struct journal_record {
    uint64_t chunk;
    uint32_t crc;
};

/* Zeroed is closed. */
struct journal {
    int fd;
    char *path;
    struct journal_record *records; /* as found when it was opened */
    size_t n_records;
    bool open;
};

/* Begin a journal for the output `path` with this plan, replacing an older one. */
bool journal_create(struct journal *j, const char *path, const char *plan, struct error *err);

/* Has an earlier run left one for `path`? */
bool journal_is_left(const char *path);

/* Open the one that an earlier run left for `path`. *found is false when there is none (or one torn
 * before its plan was complete, or of another plan without a record): create one. ERR_USAGE naming
 * the first line that differs when what it records is of another plan. */
bool journal_resume(struct journal *j, const char *path, const char *plan, bool *found,
                    struct error *err);

/* Append and flush; the caller has flushed the data. */
bool journal_append(struct journal *j, const struct journal_record *records, size_t n,
                    struct error *err);

void journal_close(struct journal *j);  /* keeps the file */
void journal_remove(struct journal *j); /* the job is done */

#endif
