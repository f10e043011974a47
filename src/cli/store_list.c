/* All sessions of this user, and the room that their caches take. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/store.h"
#include "src/text/utf8.h"

#define SHARE_OF_DISK 10
#define LEFT_BYTES ((uint64_t)1 << 30)

/* The first line of a text, cut to fit between characters. */
static void first_line(char *line, size_t size, struct str text)
{
    size_t at = 0;
    while (at < text.len && strchr(" \t\r\n", text.data[at]))
        at++;
    text = (struct str){ text.data + at, text.len - at };
    size_t n = 0;
    while (n < text.len && text.data[n] != '\n' && text.data[n] != '\r' && text.data[n])
        n++;
    bool cut = n > size - 4;
    n = cut ? utf8_complete((struct str){ text.data, size - 4 }) : n;
    snprintf(line, size, "%.*s%s", (int)n, text.data, cut ? "…" : "");
}

static uint64_t file_bytes(const char *root, const char *name, const char *file,
                           struct timespec *changed)
{
    char path[PATH_SIZE];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s/%s", root, name, file);
    if (n < 0 || (size_t)n >= sizeof path || lstat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    if (changed)
        *changed = st.st_mtim;
    return (uint64_t)st.st_size;
}

static bool summarize(struct store_summary *u, const char *root, const char *name)
{
    struct store s;
    *u = (struct store_summary){ 0 };
    if (!store_check_name(name, NULL) || !store_look(&s, name, NULL))
        return false;
    memcpy(u->name, s.name, sizeof u->name);
    first_line(u->model, sizeof u->model, buf_str(&s.settings[SET_DESCRIPTION]));
    const struct node *first = store_node(&s, 1);
    if (first)
        first_line(u->title, sizeof u->title, buf_str(&first->question));
    u->n_exchanges = store_path(&s, store_current(&s), NULL);
    u->n_branches = s.n_branches;
    struct timespec changed = { 0 };
    u->talk_bytes = file_bytes(root, name, "talk", &changed);
    u->changed_s = (int64_t)changed.tv_sec;
    u->changed_ns = (int64_t)changed.tv_nsec;
    u->cache_bytes = file_bytes(root, name, "cache", NULL);
    store_close(&s);
    return true;
}

static int by_time(const void *a, const void *b)
{
    const struct store_summary *x = a, *y = b;
    if (x->changed_s != y->changed_s)
        return x->changed_s < y->changed_s ? 1 : -1;
    if (x->changed_ns != y->changed_ns)
        return x->changed_ns < y->changed_ns ? 1 : -1;
    return strcmp(y->name, x->name);
}

bool store_list(struct store_summary **list, int *n, struct error *err)
{
    char root[PATH_SIZE];
    int capacity = 0;
    *list = NULL;
    *n = 0;
    if (!store_root(root, err))
        return false;
    DIR *folder = opendir(root);
    if (!folder)
        return fail(err, ERR_RUN, "%s: %s", root, strerror(errno));
    bool ok = true;
    for (struct dirent *entry; ok && (entry = readdir(folder));) {
        struct store_summary one;
        if (!summarize(&one, root, entry->d_name))
            continue;
        if (*n == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            struct store_summary *more = mem_resize(*list, (size_t)capacity, sizeof *more,
                                                    "list of sessions", err);
            ok = more != NULL;
            *list = ok ? more : *list;
        }
        if (ok)
            (*list)[(*n)++] = one;
    }
    closedir(folder);
    if (*n)
        qsort(*list, (size_t)*n, sizeof **list, by_time);
    return ok;
}

bool store_match(const char *word, char name[STORE_NAME], struct error *err)
{
    struct store_summary *list;
    int n, n_found = 0, found[2] = { 0 };
    if (!store_check_name(word, err))
        return false;
    if (store_exists(word)) {
        snprintf(name, STORE_NAME, "%s", word);
        return true;
    }
    if (!store_list(&list, &n, err))
        return false;
    for (int i = 0; i < n; i++)
        if (strncmp(list[i].name, word, strlen(word)) == 0 && n_found++ < 2)
            found[n_found - 1] = i;
    bool ok = n_found == 1;
    if (ok)
        snprintf(name, STORE_NAME, "%s", list[found[0]].name);
    else if (n_found > 1)
        fail(err, ERR_USAGE, "\"%s\" begins the names of %d sessions: %s, %s%s", word, n_found,
             list[found[0]].name, list[found[1]].name, n_found > 2 ? ", …" : "");
    else
        fail(err, ERR_FILE, "there is no session \"%s\" (tandem sessions list)", word);
    mem_free(list);
    return ok;
}

bool store_latest(char name[STORE_NAME], struct error *err)
{
    struct store_summary *list;
    int n;
    if (!store_list(&list, &n, err))
        return false;
    if (n > 0)
        snprintf(name, STORE_NAME, "%s", list[0].name);
    mem_free(list);
    return n > 0 || fail(err, ERR_FILE, "there is no session to continue");
}

/* ---- room for caches ---- */

/* Remove a cache that nobody has open. */
static bool drop_cache(const char *root, const char *name)
{
    char path[PATH_SIZE];
    int n = snprintf(path, sizeof path, "%s/%s/cache", root, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return false;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    bool ok = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && unlink(path) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

bool store_make_room(const struct store *s, uint64_t more)
{
    char root[PATH_SIZE];
    struct statvfs disk;
    struct store_summary *list;
    uint64_t sum = more;
    int n;
    if (!store_root(root, NULL) || statvfs(root, &disk) != 0 || !store_list(&list, &n, NULL))
        return false;
    uint64_t most = (uint64_t)disk.f_blocks * disk.f_frsize / SHARE_OF_DISK;
    uint64_t room = (uint64_t)disk.f_bavail * disk.f_frsize;
    for (int i = 0; i < n; i++)
        sum += strcmp(list[i].name, s->name) ? list[i].cache_bytes : 0;
    for (int i = n - 1; i >= 0 && sum > most; i--) {
        if (strcmp(list[i].name, s->name) == 0 || !list[i].cache_bytes ||
            !drop_cache(root, list[i].name))
            continue;
        sum -= list[i].cache_bytes;
        room += list[i].cache_bytes;
    }
    mem_free(list);
    return sum <= most && room >= more + LEFT_BYTES;
}
