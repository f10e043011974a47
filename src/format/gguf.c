/* From a path to an open model: one file, a split set, or a directory that holds one of them.
 * The layout of a file is drawn at the top of gguf_parse.c. */
#include "src/format/gguf_internal.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "src/base/mem.h"

typedef unsigned long long ull;

/* ---- split sets: PREFIX-00001-of-00003.gguf, numbered from 1 ---- */

#define SHARD_SUFFIX_LEN 20 /* "-00001-of-00003.gguf" */

struct shard_name {
    size_t prefix_len;
    int number, total; /* 1 and 1 when the name is an ordinary one */
};

static bool five_digits(const char *text, int *value)
{
    *value = 0;
    for (int i = 0; i < 5; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *value = *value * 10 + (text[i] - '0');
    }
    return true;
}

static struct shard_name shard_name(const char *path)
{
    struct shard_name name = { .prefix_len = strlen(path), .number = 1, .total = 1 };
    if (name.prefix_len <= SHARD_SUFFIX_LEN)
        return name;
    const char *s = path + name.prefix_len - SHARD_SUFFIX_LEN;
    int number, total;
    if (s[0] != '-' || !five_digits(s + 1, &number) || memcmp(s + 6, "-of-", 4) ||
        !five_digits(s + 10, &total) || strcmp(s + 15, ".gguf"))
        return name;
    if (number < 1 || total < 1 || number > total)
        return name;
    return (struct shard_name){ name.prefix_len - SHARD_SUFFIX_LEN, number, total };
}

/* ---- directories ---- */

static bool is_model_name(const char *name)
{
    size_t len = strlen(name);
    return name[0] != '.' && len > 5 && strcmp(name + len - 5, ".gguf") == 0;
}

/* The one model of directory `path` as an arena string. Of a split set only the lowest shard
 * present counts, so that a set without its first file is found and reported as incomplete. */
static const char *model_in_directory(struct arena *arena, const char *path, struct error *err)
{
    DIR *dir = opendir(path);
    if (!dir) {
        fail(err, ERR_FILE, "%s: the directory cannot be read", path);
        return NULL;
    }
    char *found = NULL;
    struct shard_name found_name = { 0 };
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(dir));) {
        if (!is_model_name(e->d_name))
            continue;
        struct shard_name name = shard_name(e->d_name);
        bool same_set = found && name.total > 1 && name.total == found_name.total &&
                        name.prefix_len == found_name.prefix_len &&
                        memcmp(found, e->d_name, name.prefix_len) == 0;
        if (found && !same_set) {
            ok = fail(err, ERR_FILE, "%s: holds several models, %s and %s; name one of them", path,
                      found, e->d_name);
        } else if (!found || name.number < found_name.number) {
            found = arena_strndup(arena, e->d_name, strlen(e->d_name), err);
            found_name = name;
            ok = found != NULL;
        }
    }
    closedir(dir);
    if (ok && !found)
        ok = fail(err, ERR_FILE, "%s: a directory without a .gguf file", path);
    if (!ok)
        return NULL;
    size_t size = strlen(path) + strlen(found) + 2;
    char *joined = arena_alloc(arena, size, 1, err);
    if (joined)
        snprintf(joined, size, "%s/%s", path, found);
    return joined;
}

/* ---- opening ---- */

static bool make_shards(struct gguf *g, const char *path, struct shard_name name,
                        struct error *err)
{
    if (name.total > GGUF_MAX_SHARDS)
        return fail(err, ERR_FILE, "%s: a set of %d files, expected at most %d (G-36)", path,
                    name.total, GGUF_MAX_SHARDS);
    g->shards = arena_alloc(&g->arena, (size_t)name.total, sizeof *g->shards, err);
    if (!g->shards)
        return false;
    g->n_shards = name.total;
    for (int i = 0; i < name.total; i++)
        g->shards[i].fd = -1;
    for (int i = 0; i < name.total; i++) {
        size_t size = strlen(path) + 1;
        char *copy = arena_strndup(&g->arena, path, size - 1, err);
        if (!copy)
            return false;
        if (name.total > 1)
            snprintf(copy + name.prefix_len, size - name.prefix_len, "-%05d-of-%05d.gguf", i + 1,
                     name.total);
        g->shards[i].path = copy;
    }
    return true;
}

/* Make *g look like shard `i` alone, for the getters. */
static struct gguf view_of(const struct gguf *g, int i, const struct gguf_part *part)
{
    return (struct gguf){ .shards = g->shards + i, .n_shards = 1, .kv = part->kv,
                          .n_kv = part->n_kv, .kv_index = part->kv_index };
}

/* split.no and split.count against the file names (G-36). */
static bool check_split_keys(const struct gguf *g, int i, const struct gguf_part *part,
                             struct error *err)
{
    struct gguf view = view_of(g, i, part);
    uint64_t no = 0, count = 0;
    if (!gguf_get_u64(&view, "split.no", &no, err) ||
        !gguf_get_u64(&view, "split.count", &count, err))
        return false;
    const char *path = g->shards[i].path;
    if (g->n_shards == 1 && count <= 1) /* a merged file may keep a stale split.no */
        return true;
    if (g->n_shards == 1)
        return fail(err, ERR_FILE, "%s: one file of a set of %llu by its metadata, but its name "
                    "does not end in -00001-of-%05llu.gguf (G-36)", path, (ull)count, (ull)count);
    if (count != (uint64_t)g->n_shards)
        return fail(err, ERR_FILE, "%s: split.count is %llu, expected %d as in the name (G-36)",
                    path, (ull)count, g->n_shards);
    if (no != (uint64_t)i)
        return fail(err, ERR_FILE, "%s: split.no is %llu, expected %d as in the name (G-36)", path,
                    (ull)no, i);
    return true;
}

static bool open_shard(struct gguf *g, int i, struct gguf_part *part, struct error *err)
{
    struct gguf_shard *shard = &g->shards[i];
    if (!gguf_file_open(shard, err)) {
        if (g->n_shards > 1 && shard->fd < 0)
            error_prefix(err, "file %d of %d of the set", i + 1, g->n_shards);
        return false;
    }
    for (int j = 0; j < i; j++)
        if (g->shards[j].device == shard->device && g->shards[j].inode == shard->inode)
            return fail(err, ERR_FILE, "%s: the same file as %s (G-05)", shard->path,
                        g->shards[j].path);
    return gguf_parse(&g->arena, shard, i, part, err) && check_split_keys(g, i, part, err);
}

/* The tables of all parts become those of the model. */
static bool join_parts(struct gguf *g, const struct gguf_part *parts, struct error *err)
{
    g->version = parts[0].version;
    g->alignment = parts[0].alignment;
    g->kv = parts[0].kv;
    g->kv_index = parts[0].kv_index;
    g->n_kv = parts[0].n_kv;
    g->n_tensors = 0;
    for (int i = 0; i < g->n_shards; i++)
        g->n_tensors += parts[i].n_tensors;
    if (g->n_tensors > GGUF_MAX_TENSORS)
        return fail(err, ERR_FILE, "%s: %llu tensors in the set, expected at most %u (G-20)",
                    g->shards[0].path, (ull)g->n_tensors, GGUF_MAX_TENSORS);
    uint64_t claimed = g->n_tensors;
    if (g->n_shards > 1 && !gguf_get_u64(g, "split.tensors.count", &claimed, err))
        return false;
    if (claimed != g->n_tensors)
        return fail(err, ERR_FILE, "%s: split.tensors.count is %llu, but the %d files hold %llu "
                    "tensors (G-36)", g->shards[0].path, (ull)claimed, g->n_shards,
                    (ull)g->n_tensors);
    g->tensors = parts[0].tensors;
    if (g->n_shards > 1) {
        g->tensors = arena_alloc(&g->arena, g->n_tensors, sizeof *g->tensors, err);
        if (!g->tensors)
            return false;
        struct tensor *to = g->tensors;
        for (int i = 0; i < g->n_shards; i++) {
            memcpy(to, parts[i].tensors, parts[i].n_tensors * sizeof *to);
            to += parts[i].n_tensors;
        }
    }
    g->data_bytes = 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) /* inside files of known size: cannot wrap */
        g->data_bytes += g->tensors[i].bytes;
    return gguf_index_tensors(g, err);
}

/* The hidden name that our writer uses until a file is complete. */
static bool is_unfinished(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len = strlen(name);
    return name[0] == '.' && len > 5 && strcmp(name + len - 5, ".part") == 0;
}

/* "dir/x.gguf" becomes "dir/.x.gguf.part". */
static bool hide_names(struct gguf *g, struct error *err)
{
    for (int i = 0; i < g->n_shards; i++) {
        const char *path = g->shards[i].path, *slash = strrchr(path, '/');
        int dir = slash ? (int)(slash - path) + 1 : 0;
        size_t size = strlen(path) + 8;
        char *hidden = arena_alloc(&g->arena, size, 1, err);
        if (!hidden)
            return false;
        snprintf(hidden, size, "%.*s.%s.part", dir, path, path + dir);
        g->shards[i].path = hidden;
    }
    return true;
}

static bool open_set(struct gguf *g, const char *path, bool unfinished, struct error *err)
{
    if (is_unfinished(path))
        return fail(err, ERR_FILE, "%s: an unfinished file; the run that was writing it did not "
                    "end (G-04)", path);
    if (!make_shards(g, path, shard_name(path), err) || (unfinished && !hide_names(g, err)))
        return false;
    struct gguf_part *parts = arena_alloc(&g->arena, (size_t)g->n_shards, sizeof *parts, err);
    if (!parts)
        return false;
    for (int i = 0; i < g->n_shards; i++)
        if (!open_shard(g, i, &parts[i], err))
            return false;
    return join_parts(g, parts, err);
}

static bool open_files(struct gguf *g, const char *path, bool unfinished, struct error *err)
{
    bool ok = path && open_set(g, path, unfinished, err);
    int shard;
    uint64_t offset;
    if (gguf_lost(g, &shard, &offset)) {
        error_clear(err); /* what was parsed were zeros in place of the file */
        ok = fail(err, ERR_FILE, "%s: byte %llu: the file changed or cannot be read (G-51)",
                  g->shards[shard].path, (ull)offset);
    }
    if (!ok)
        gguf_close(g);
    return ok;
}

bool gguf_open(struct gguf *g, const char *path, struct error *err)
{
    *g = (struct gguf){ 0 };
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        path = model_in_directory(&g->arena, path, err);
    return open_files(g, path, false, err);
}

bool gguf_open_unfinished(struct gguf *g, const char *path, struct error *err)
{
    *g = (struct gguf){ 0 };
    return open_files(g, path, true, err);
}

bool gguf_open_memory(struct gguf *g, const void *bytes, uint64_t size, struct error *err)
{
    *g = (struct gguf){ 0 };
    struct gguf_part part = { 0 };
    bool ok = make_shards(g, "memory", (struct shard_name){ 6, 1, 1 }, err);
    if (ok) {
        g->shards[0].map = bytes;
        g->shards[0].size = size;
        ok = size >= 24 && memcmp(bytes, "GGUF", 4) == 0;
        if (!ok)
            fail(err, ERR_FILE, "memory: byte 0: %llu bytes without a GGUF header (G-04)",
                 (ull)size);
    }
    ok = ok && gguf_parse(&g->arena, &g->shards[0], 0, &part, err) &&
         check_split_keys(g, 0, &part, err) && join_parts(g, &part, err);
    if (!ok)
        gguf_close(g);
    return ok;
}

void gguf_close(struct gguf *g)
{
    for (int i = 0; i < g->n_shards; i++)
        gguf_file_close(&g->shards[i]);
    arena_release(&g->arena);
    *g = (struct gguf){ 0 };
}

bool gguf_lost(const struct gguf *g, int *shard, uint64_t *offset)
{
    for (int i = 0; i < g->n_shards; i++)
        if (gguf_file_lost(&g->shards[i], offset)) {
            *shard = i;
            return true;
        }
    return false;
}
