/* The rows of a segment of a prefix file on their way between a device and the disk: through one
 * buffer, summed up as they pass. */
#ifndef TANDEM_ENGINE_PREFIX_STREAM_H
#define TANDEM_ENGINE_PREFIX_STREAM_H

#include "src/engine/engine.h"
#include "src/model/kvcache.h"

#define PREFIX_STREAM_BYTES ((size_t)1 << 20) /* no row may be larger */

struct prefix_stream {
    int fd;
    const char *path;     /* for messages */
    uint64_t at, end;     /* of the file: the next byte, and (reading) where to stop */
    uint8_t *buffer;      /* [PREFIX_STREAM_BYTES] of the caller */
    size_t used, have;    /* of the buffer */
    uint32_t crc;
    uint64_t total_bytes; /* for progress */
    load_progress *progress;
    void *ctx;
};

/* Writing: units of a part, from the device. */
bool stream_save(struct prefix_stream *s, const struct cache_part *part, struct device *d,
                 struct cache_range range, struct error *err);
bool stream_put(struct prefix_stream *s, const void *bytes, size_t n, struct error *err);
bool stream_flush(struct prefix_stream *s, struct error *err);

/* Reading: units of a part; those of `wanted` go to the device, the others pass. */
bool stream_load(struct prefix_stream *s, const struct cache_part *part, struct device *d,
                 struct cache_range range, struct cache_range wanted, struct error *err);
bool stream_skip(struct prefix_stream *s, uint64_t n, struct error *err);

/* Whole reads and writes at an offset: false with errno, 0 when the file ended. */
bool file_read_at(int fd, void *bytes, size_t n, uint64_t at);
bool file_write_at(int fd, const void *bytes, size_t n, uint64_t at);

#endif
