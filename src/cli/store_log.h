/* Records, one behind the other in a file that only grows: how a conversation lies on disk.
 *
 *   head    0  8  "tndmtalk"
 *           8  4  version (1)
 *          12  4  zero
 *   record  0  4  "rec:"
 *           4  4  type, four letters
 *           8  4  n, the bytes behind these
 *          12  4  CRC-32C of type, n, and those bytes
 *          16  n  fields: numbers of 8 bytes, texts as a length of 4 bytes and so many bytes
 *
 * A record counts when its sum agrees; the reader looks for the next one behind anything that does
 * not. So killing the writer loses the record that it was writing, and damage loses those that it
 * hit. Numbers are little-endian. */
#ifndef TANDEM_CLI_STORE_LOG_H
#define TANDEM_CLI_STORE_LOG_H

#include "src/cli/buf.h"

#define STORE_LOG_VERSION 1

/* Zeroed is closed. */
struct store_log {
    int fd;
    bool open;
    const char *path;  /* borrowed */
    struct buf record; /* being put together */
};

/* A new file of mode 0600, or one to go on with. ERR_RUN; ERR_FILE: not such a file, or of a newer
 * version. */
bool store_log_create(struct store_log *l, const char *path, struct error *err);
bool store_log_open(struct store_log *l, const char *path, struct error *err);
void store_log_close(struct store_log *l);

/* Write one record: begin, fields, end. Does nothing while the log is closed. ERR_RUN: the file is
 * then as long as before. */
void store_log_begin(struct store_log *l, const char type[4]);
void store_log_number(struct store_log *l, int64_t value);
void store_log_text(struct store_log *l, struct str text);
bool store_log_end(struct store_log *l, struct error *err);
/* What was written is on the disk, should the power fail. */
bool store_log_sync(struct store_log *l, struct error *err);

/* Fields of a record that was read; `ok` turns false behind its end. */
struct store_fields {
    const char *type; /* four letters */
    const uint8_t *at, *end;
    bool ok;
};
int64_t store_field_number(struct store_fields *f);
struct str store_field_text(struct store_fields *f);

/* Visit all whole records of a file's bytes; returns the bytes that belong to none (0: undamaged).
 * ERR_FILE as store_log_open. */
typedef void store_visit(void *ctx, struct store_fields *f);
bool store_log_read(struct str bytes, const char *path, store_visit *visit, void *ctx,
                    uint64_t *n_lost, struct error *err);

#endif
