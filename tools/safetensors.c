#include "tools/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"

#define MAX_HEADER_BYTES 100000000u
#define MAX_TEXT_BYTES (64u << 20)
#define MAX_FILES 9999
#define MAX_TENSORS (1u << 20)
#define MAX_DIM ((uint64_t)1 << 40)
#define BIG_BYTES (4ull << 30) /* checkpoints above this do not stay in the page cache */

#define INDEX_NAME "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"

typedef unsigned long long ull;

/* ---- files ---- */

/* Open a regular file of the folder; *exists tells a missing one from other failures. */
static int open_in(const struct checkpoint *c, const char *name, struct stat *st, bool *exists,
                   struct error *err)
{
    int fd = openat(c->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    *exists = fd >= 0 || errno != ENOENT;
    if (fd < 0) {
        fail(err, ERR_FILE, "%s/%s: %s", c->folder, name, strerror(errno));
        return -1;
    }
    if (fstat(fd, st) != 0 || !S_ISREG(st->st_mode)) {
        fail(err, ERR_FILE, "%s/%s: not a regular file", c->folder, name);
        close(fd);
        return -1;
    }
    return fd;
}

static bool read_at(int fd, const char *name, uint64_t at, void *bytes, size_t n, struct error *err)
{
    char *to = bytes;
    while (n > 0) {
        ssize_t done = pread(fd, to, min_of(n, (size_t)1 << 30), (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return fail(err, ERR_RUN, "%s: byte %llu: %s", name, (ull)at,
                        done ? strerror(errno) : "the file ends here; it changed while being read");
        to += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return true;
}

bool checkpoint_text(const struct checkpoint *c, const char *name, char **text, size_t *len,
                     struct error *err)
{
    struct error why = { 0 };
    struct stat st;
    bool exists;
    *text = NULL;
    *len = 0;
    int fd = open_in(c, name, &st, &exists, &why);
    if (fd < 0)
        return !exists || fail(err, why.code, "%s", why.text);
    bool ok = st.st_size <= MAX_TEXT_BYTES ||
              fail(err, ERR_FILE, "%s/%s: %llu bytes, expected at most %u (S-06)", c->folder, name,
                   (ull)st.st_size, MAX_TEXT_BYTES);
    if (ok) {
        *len = (size_t)st.st_size;
        *text = mem_alloc(*len + 1, 1, name, err);
        ok = *text && read_at(fd, name, 0, *text, *len, err);
    }
    close(fd);
    if (!ok) {
        mem_free(*text);
        *text = NULL;
    }
    return ok;
}

struct json *checkpoint_json(const struct checkpoint *c, const char *name, struct error *err)
{
    char *text;
    size_t len;
    if (!checkpoint_text(c, name, &text, &len, err) || !text)
        return NULL;
    struct json *j = js_parse((struct str){ text, len }, err);
    mem_free(text);
    if (!j)
        error_prefix(err, "%s/%s", c->folder, name);
    return j;
}

/* ---- one header ---- */

size_t st_dtype_bytes(enum st_dtype dtype)
{
    switch (dtype) {
    case ST_I64:
        return 8;
    case ST_F32:
    case ST_I32:
        return 4;
    case ST_F16:
    case ST_BF16:
        return 2;
    default:
        return 1;
    }
}

static const struct {
    const char *name;
    enum st_dtype dtype;
    int bytes;
} dtypes[] = {
    { "F32", ST_F32, 4 },          { "F16", ST_F16, 2 },   { "BF16", ST_BF16, 2 },
    { "F8_E4M3", ST_F8_E4M3, 1 },  { "F8_E8M0", ST_F8_E8M0, 1 },
    { "F8_E5M2", ST_OTHER, 1 },    { "F64", ST_OTHER, 8 }, { "I64", ST_I64, 8 },
    { "I32", ST_I32, 4 },          { "I16", ST_OTHER, 2 }, { "I8", ST_BYTE, 1 },
    { "U64", ST_OTHER, 8 },        { "U32", ST_OTHER, 4 }, { "U16", ST_OTHER, 2 },
    { "U8", ST_BYTE, 1 },          { "BOOL", ST_OTHER, 1 },
};

/* "dtype" and "shape"; *elements_bytes is what they need. */
static bool read_kind(struct st_tensor *t, const struct json *entry, uint64_t *bytes,
                      struct error *err)
{
    struct str dtype;
    const struct json *shape = js_get(entry, "shape");
    if (!js_as_text(js_get(entry, "dtype"), &dtype) || !js_is_array(shape))
        return fail(err, ERR_FILE, "dtype or shape missing");
    size_t k = 0;
    while (k < ARRAY_LEN(dtypes) && !str_is(dtype, dtypes[k].name))
        k++;
    if (k == ARRAY_LEN(dtypes))
        return fail(err, ERR_FILE, "type \"%.*s\" is not supported (S-03)",
                    (int)min_of(dtype.len, (size_t)20), dtype.data);
    t->dtype = dtypes[k].dtype;
    t->dtype_name = dtypes[k].name;
    if (js_count(shape) > ST_MAX_DIMS)
        return fail(err, ERR_FILE, "%zu dimensions, expected at most %d (S-03)", js_count(shape),
                    ST_MAX_DIMS);
    t->rank = (int)js_count(shape);
    *bytes = (uint64_t)dtypes[k].bytes;
    for (int d = 0; d < t->rank; d++) {
        int64_t n;
        if (!js_as_int(js_at(shape, (size_t)d), &n) || n < 0 || (uint64_t)n > MAX_DIM ||
            __builtin_mul_overflow(*bytes, (uint64_t)n, bytes))
            return fail(err, ERR_FILE, "dimension %d is not a size", d);
        t->shape[d] = (uint64_t)n;
    }
    return true;
}

static bool read_extent(struct st_tensor *t, const struct json *entry, uint64_t buffer_bytes,
                        uint64_t wanted, struct error *err)
{
    const struct json *offsets = js_get(entry, "data_offsets");
    int64_t begin, end;
    if (js_count(offsets) != 2 || !js_as_int(js_at(offsets, 0), &begin) ||
        !js_as_int(js_at(offsets, 1), &end) || begin < 0 || end < begin ||
        (uint64_t)end > buffer_bytes)
        return fail(err, ERR_FILE, "data_offsets missing or outside of the file's %llu bytes "
                    "(S-04)",
                    (ull)buffer_bytes);
    t->offset = (uint64_t)begin;
    t->bytes = (uint64_t)(end - begin);
    if (t->bytes != wanted)
        return fail(err, ERR_FILE, "%llu bytes, its shape and type need %llu (S-04)", (ull)t->bytes,
                    (ull)wanted);
    return true;
}

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* The tensors of one file must cover its bytes exactly once. */
static bool check_tiling(struct st_tensor *t, size_t n, uint64_t buffer_bytes, struct error *err)
{
    uint64_t at = 0;
    qsort(t, n, sizeof *t, by_offset);
    for (size_t i = 0; i < n; i++) {
        if (t[i].offset != at)
            return fail(err, ERR_FILE, "%s: begins at byte %llu, expected %llu (S-04: gap or "
                        "overlap)",
                        t[i].name, (ull)t[i].offset, (ull)at);
        at += t[i].bytes;
    }
    return at == buffer_bytes ||
           fail(err, ERR_FILE, "the tensors end at byte %llu of %llu (S-04)", (ull)at,
                (ull)buffer_bytes);
}

static bool grow_tensors(struct checkpoint *c, size_t more, struct error *err)
{
    if (more > MAX_TENSORS - c->n_tensors)
        return fail(err, ERR_FILE, "more than %u tensors", MAX_TENSORS);
    void *grown = mem_resize(c->tensors, c->n_tensors + more, sizeof *c->tensors,
                             "tensors of a checkpoint", err);
    if (!grown)
        return false;
    c->tensors = grown;
    return true;
}

static bool take_tensors(struct checkpoint *c, int file, const struct json *header, uint64_t start,
                         struct error *err)
{
    uint64_t buffer_bytes = c->files[file].size - start, wanted = 0;
    size_t first = c->n_tensors;
    struct js_cursor at = { 0 };
    if (!grow_tensors(c, js_count(header), err))
        return false;
    while (js_next(header, &at)) {
        if (strcmp(at.key, "__metadata__") == 0)
            continue;
        struct st_tensor *t = &c->tensors[c->n_tensors];
        *t = (struct st_tensor){ .file = file };
        if (!read_kind(t, at.value, &wanted, err) ||
            !read_extent(t, at.value, buffer_bytes, wanted, err))
            return error_prefix(err, "%.200s", at.key);
        t->name = arena_strndup(&c->arena, at.key, strlen(at.key), err);
        if (!t->name)
            return false;
        c->n_tensors++;
    }
    if (!check_tiling(c->tensors + first, c->n_tensors - first, buffer_bytes, err))
        return false;
    for (size_t i = first; i < c->n_tensors; i++)
        c->tensors[i].offset += start;
    return true;
}

static bool read_header(struct checkpoint *c, int file, struct error *err)
{
    struct st_file *f = &c->files[file];
    uint8_t length[8];
    uint64_t n = 0;
    if (f->size < 8)
        return fail(err, ERR_FILE, "%llu bytes; download incomplete? (S-01)", (ull)f->size);
    if (!read_at(f->fd, f->name, 0, length, 8, err))
        return false;
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)length[i] << 8 * i;
    if (n < 2 || n > MAX_HEADER_BYTES || n > f->size - 8)
        return fail(err, ERR_FILE, "header of %llu bytes in a file of %llu (S-01): not a "
                    "safetensors "
                    "file, or a pointer to one", (ull)n, (ull)f->size);
    char *text = mem_alloc((size_t)n, 1, "safetensors header", err);
    if (!text)
        return false;
    bool ok = read_at(f->fd, f->name, 8, text, (size_t)n, err) &&
              (text[0] == '{' || fail(err, ERR_FILE, "the header is not a JSON object (S-01)"));
    struct json *header = ok ? js_parse((struct str){ text, (size_t)n }, err) : NULL;
    mem_free(text);
    ok = header && take_tensors(c, file, header, 8 + n, err);
    js_free(header);
    return ok;
}

/* ---- the set ---- */

static int64_t changed_ns(const struct stat *st)
{
    return st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
}

static bool add_file(struct checkpoint *c, const char *name, struct error *err)
{
    struct stat st;
    bool exists;
    int fd = open_in(c, name, &st, &exists, err);
    if (fd < 0)
        return false;
    struct st_file *f = &c->files[c->n_files++];
    *f = (struct st_file){ name, fd, (uint64_t)st.st_size, st.st_dev, st.st_ino, changed_ns(&st) };
    c->bytes += f->size;
    for (struct st_file *other = c->files; other < f; other++)
        if (other->device == f->device && other->inode == f->inode)
            return fail(err, ERR_FILE, "%s/%s and %s are the same file", c->folder, other->name,
                        name);
    return read_header(c, c->n_files - 1, err) || error_prefix(err, "%s/%s", c->folder, name);
}

/* No name of an index leads out of the folder. */
static bool is_plain_name(struct str name)
{
    static const char suffix[] = ".safetensors";
    size_t n = sizeof suffix - 1;
    return name.len > n && name.len < 256 && name.data[0] != '.' &&
           !memchr(name.data, '/', name.len) && !memchr(name.data, '\\', name.len) &&
           !memchr(name.data, 0, name.len) && memcmp(name.data + name.len - n, suffix, n) == 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different file names of an index, in order, living in the arena. */
static bool list_files(struct checkpoint *c, const struct json *map, const char ***names, int *n,
                       struct error *err)
{
    struct js_cursor at = { 0 };
    size_t total = 0, kept = 0;
    const char **list = arena_alloc(&c->arena, js_count(map), sizeof *list, err);
    if (!list)
        return false;
    while (js_next(map, &at)) {
        struct str name;
        if (!js_as_text(at.value, &name) || !is_plain_name(name))
            return fail(err, ERR_FILE, "%s/" INDEX_NAME ": %.200s: not the name of a safetensors "
                        "file "
                        "of this folder (S-05)", c->folder, at.key);
        list[total++] = name.data;
    }
    qsort(list, total, sizeof *list, by_text);
    for (size_t i = 0; i < total; i++)
        if (i == 0 || strcmp(list[i], list[kept - 1]) != 0)
            list[kept++] = list[i];
    if (kept < 1 || kept > MAX_FILES)
        return fail(err, ERR_FILE, "%s/" INDEX_NAME ": %zu files, expected 1 to %d", c->folder,
                    kept,
                    MAX_FILES);
    for (size_t i = 0; i < kept; i++)
        if (!(list[i] = arena_strndup(&c->arena, list[i], strlen(list[i]), err)))
            return false;
    *names = list;
    *n = (int)kept;
    return true;
}

/* Missing files all at once: the user downloads them in one go. */
static bool check_present(const struct checkpoint *c, const char *const *names, int n,
                          struct error *err)
{
    char list[600] = "";
    int missing = 0;
    for (int i = 0; i < n; i++) {
        if (faccessat(c->folder_fd, names[i], F_OK, 0) == 0)
            continue;
        size_t used = strlen(list);
        if (used + strlen(names[i]) + 8 < sizeof list)
            snprintf(list + used, sizeof list - used, " %s", names[i]);
        missing++;
    }
    return missing == 0 || fail(err, ERR_FILE, "%s: %d of %d files are missing:%s", c->folder,
                                missing, n, list);
}

static bool check_index(const struct checkpoint *c, const struct json *map, struct error *err)
{
    struct js_cursor at = { 0 };
    while (js_next(map, &at)) {
        struct str name = { 0 };
        const struct st_tensor *t = checkpoint_find(c, at.key);
        js_as_text(at.value, &name);
        if (!t || !str_is(name, c->files[t->file].name))
            return fail(err, ERR_FILE, "%s/" INDEX_NAME ": %.200s should be in %.*s, it is %s%s "
                        "(S-05)",
                        c->folder, at.key, (int)name.len, name.data, t ? "in " : "nowhere",
                        t ? c->files[t->file].name : "");
    }
    for (size_t i = 0; i < c->n_tensors; i++)
        if (!js_get(map, c->tensors[i].name))
            return fail(err, ERR_FILE, "%s/%s: %.200s is not in the index (S-05)", c->folder,
                        c->files[c->tensors[i].file].name, c->tensors[i].name);
    return true;
}

static int by_name(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static bool sort_tensors(struct checkpoint *c, struct error *err)
{
    qsort(c->tensors, c->n_tensors, sizeof *c->tensors, by_name);
    for (size_t i = 1; i < c->n_tensors; i++)
        if (strcmp(c->tensors[i - 1].name, c->tensors[i].name) == 0)
            return fail(err, ERR_FILE, "%s: %.200s is both in %s and in %s", c->folder,
                        c->tensors[i].name, c->files[c->tensors[i - 1].file].name,
                        c->files[c->tensors[i].file].name);
    return c->n_tensors > 0 || fail(err, ERR_FILE, "%s: no tensors", c->folder);
}

static bool open_indexed(struct checkpoint *c, const struct json *index, struct error *err)
{
    const struct json *map = js_get(index, "weight_map");
    const char **names = NULL;
    int n = 0;
    if (!js_is_object(map))
        return fail(err, ERR_FILE, "%s/" INDEX_NAME ": no weight_map", c->folder);
    if (!list_files(c, map, &names, &n, err) || !check_present(c, names, n, err))
        return false;
    c->files = arena_alloc(&c->arena, (size_t)n, sizeof *c->files, err);
    if (!c->files)
        return false;
    for (int i = 0; i < n; i++)
        if (!add_file(c, names[i], err))
            return false;
    return sort_tensors(c, err) && check_index(c, map, err);
}

/* A folder without an index has one file of weights, or it is no checkpoint. */
static bool has_weights(const struct checkpoint *c, struct error *err)
{
    return faccessat(c->folder_fd, SINGLE_NAME, F_OK, 0) == 0 || errno != ENOENT ||
           fail(err, ERR_FILE, "%s: no checkpoint: neither " INDEX_NAME " nor " SINGLE_NAME
                " is in it", c->folder);
}

bool checkpoint_open(struct checkpoint *c, const char *folder, struct error *err)
{
    *c = (struct checkpoint){ .folder = folder, .folder_fd = -1 };
    c->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->folder_fd < 0)
        return fail(err, ERR_FILE, "%s: %s (convert wants the folder of a checkpoint)", folder,
                    strerror(errno));
    struct error why = { 0 };
    struct json *index = checkpoint_json(c, INDEX_NAME, &why);
    bool ok;
    if (why.code) {
        ok = fail(err, why.code, "%s", why.text);
    } else if (index) {
        ok = open_indexed(c, index, err);
    } else {
        c->files = arena_alloc(&c->arena, 1, sizeof *c->files, err);
        ok = has_weights(c, err) && c->files && add_file(c, SINGLE_NAME, err) &&
             sort_tensors(c, err);
    }
    js_free(index);
    if (!ok)
        checkpoint_close(c);
    return ok;
}

void checkpoint_close(struct checkpoint *c)
{
    for (int i = 0; i < c->n_files; i++)
        close(c->files[i].fd);
    if (c->folder && c->folder_fd >= 0)
        close(c->folder_fd);
    mem_free(c->tensors);
    arena_release(&c->arena);
    *c = (struct checkpoint){ 0 };
}

struct st_tensor *checkpoint_find(const struct checkpoint *c, const char *name)
{
    struct st_tensor wanted = { .name = name };
    return bsearch(&wanted, c->tensors, c->n_tensors, sizeof *c->tensors, by_name);
}

bool checkpoint_read(const struct checkpoint *c, const struct st_tensor *t, uint64_t at,
                     void *bytes, size_t n, struct error *err)
{
    if (at > t->bytes || n > t->bytes - at)
        return fail(err, ERR_INTERNAL, "%s: bytes %llu to %llu of %llu", t->name, (ull)at,
                    (ull)at + n, (ull)t->bytes);
    const struct st_file *f = &c->files[t->file];
    if (!read_at(f->fd, f->name, t->offset + at, bytes, n, err))
        return error_prefix(err, "%s", t->name);
    if (c->bytes > BIG_BYTES)
        posix_fadvise(f->fd, (off_t)(t->offset + at), (off_t)n, POSIX_FADV_DONTNEED);
    return true;
}

bool checkpoint_unchanged(const struct checkpoint *c, struct error *err)
{
    for (int i = 0; i < c->n_files; i++) {
        const struct st_file *f = &c->files[i];
        struct stat st;
        if (fstat(f->fd, &st) != 0 || (uint64_t)st.st_size != f->size ||
            changed_ns(&st) != f->changed_ns)
            return fail(err, ERR_RUN, "%s/%s: changed while it was being read", c->folder,
                        f->name);
    }
    return true;
}
