#include "src/cli/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "src/base/mem.h"

#define MOST_NODES 1000000
#define MOST_BRANCHES 10000

static const char *const setting_names[N_STORE_SETTINGS] = {
    [SET_MODEL] = "model", [SET_DESCRIPTION] = "description", [SET_SYSTEM] = "system",
    [SET_THINK] = "think", [SET_AUTOMATIC] = "automatic",
};

/* ---- names and folders ---- */

bool store_check_name(const char *name, struct error *err)
{
    size_t len = strlen(name);
    bool ok = len > 0 && len < STORE_NAME && name[0] != '.' && name[0] != '-';
    for (const unsigned char *p = (const unsigned char *)name; ok && *p; p++)
        ok = *p >= 0x80 || (*p > ' ' && *p != '/' && *p != '\\' && *p != 0x7f);
    return ok || fail(err, ERR_USAGE, "\"%s\" cannot name a session: letters, digits and signs but / "
                      "and blanks, at most %d", name, STORE_NAME - 1);
}

bool store_root(char path[PATH_SIZE], struct error *err)
{
    *path = 0;
    if (path_state(path, PATH_SIZE, "sessions") && (mkdir(path, 0700) == 0 || errno == EEXIST))
        return true;
    if (*path)
        return fail(err, ERR_RUN, "sessions cannot be kept: %s: %s", path, strerror(errno));
    return fail(err, ERR_RUN, "sessions cannot be kept: no folder for them (XDG_STATE_HOME or HOME)");
}

static bool folder_of(const char *name, char path[PATH_SIZE], struct error *err)
{
    if (!store_check_name(name, err) || !store_root(path, err))
        return false;
    size_t n = strlen(path);
    int more = snprintf(path + n, PATH_SIZE - n, "/%s", name);
    return (more > 0 && (size_t)more < PATH_SIZE - n - 16) ||
           fail(err, ERR_RUN, "the path of the sessions is too long");
}

/* Remember where the session is. */
static bool place(struct store *s, const char *name, struct error *err)
{
    if (!folder_of(name, s->folder, err))
        return false;
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->path, sizeof s->path, "%.*s/talk", PATH_SIZE - 8, s->folder);
    return true;
}

bool store_exists(const char *name)
{
    char path[PATH_SIZE];
    struct stat st;
    return folder_of(name, path, NULL) && lstat(path, &st) == 0;
}

/* ---- the lock ---- */

static void unlock(struct store *s)
{
    if (s->locked)
        close(s->lock);
    s->locked = false;
}

static bool lock(struct store *s, struct error *err)
{
    char path[PATH_SIZE], who[32] = "";
    snprintf(path, sizeof path, "%.*s/lock", PATH_SIZE - 8, s->folder);
    s->lock = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (s->lock < 0)
        return fail(err, ERR_RUN, "%s: %s", path, strerror(errno));
    s->locked = true;
    if (flock(s->lock, LOCK_EX | LOCK_NB) == 0) {
        int n = snprintf(who, sizeof who, "%ld\n", (long)getpid());
        bool told = ftruncate(s->lock, 0) == 0 && pwrite(s->lock, who, (size_t)n, 0) == n;
        (void)told; /* the number is for a message only */
        return true;
    }
    ssize_t n = pread(s->lock, who, sizeof who - 1, 0);
    unlock(s);
    return fail(err, ERR_USAGE, "the session \"%s\" is open in another tandem (process %ld)", s->name,
                n > 0 ? strtol(who, NULL, 10) : 0L);
}

/* ---- the tree ---- */

struct node *store_node(const struct store *s, int64_t id)
{
    bool there = id > 0 && id <= s->n_nodes && s->nodes[id - 1].exists;
    return there ? &s->nodes[id - 1] : NULL;
}

/* The node with this number, or the latest before it, when damage took it. */
static int64_t nearest_node(const struct store *s, int64_t id)
{
    id = max_of((int64_t)0, min_of(id, s->n_nodes));
    while (id > 0 && !store_node(s, id))
        id--;
    return id;
}

static struct node *add_node(struct store *s, int64_t id, struct error *err)
{
    if (id < 1 || id > MOST_NODES)
        return NULL;
    if (id > s->capacity) {
        int64_t capacity = max_of(2 * s->capacity, id + 15);
        struct node *more = mem_resize(s->nodes, (size_t)capacity, sizeof *more, "conversation",
                                       err);
        if (!more)
            return NULL;
        memset(more + s->capacity, 0, (size_t)(capacity - s->capacity) * sizeof *more);
        s->nodes = more;
        s->capacity = capacity;
    }
    s->n_nodes = max_of(s->n_nodes, id);
    s->nodes[id - 1].exists = true;
    return &s->nodes[id - 1];
}

static void set_text(struct buf *b, struct str text)
{
    buf_clear(b);
    buf_add(b, text.data, text.len);
}

static int branch_index(const struct store *s, const char *name)
{
    for (int i = 0; i < s->n_branches; i++)
        if (strcmp(s->branches[i].name, name) == 0)
            return i;
    return -1;
}

static struct branch *add_branch(struct store *s, const char *name, struct error *err)
{
    if (s->n_branches == MOST_BRANCHES) {
        fail(err, ERR_USAGE, "the conversation has %d branches: it can have no more", MOST_BRANCHES);
        return NULL;
    }
    struct branch *more = mem_resize(s->branches, (size_t)s->n_branches + 1, sizeof *more,
                                     "branches", err);
    if (!more)
        return NULL;
    s->branches = more;
    struct branch *b = &more[s->n_branches++];
    *b = (struct branch){ 0 };
    snprintf(b->name, sizeof b->name, "%s", name);
    return b;
}

/* The current branch, made when there is none yet. */
static struct branch *current(struct store *s, struct error *err)
{
    if (s->n_branches == 0)
        return add_branch(s, "main", err);
    return &s->branches[s->current];
}

const struct branch *store_current(const struct store *s)
{
    static const struct branch first = { .name = "main" };
    return s->n_branches ? &s->branches[s->current] : &first;
}

const struct branch *store_find_branch(const struct store *s, const char *name)
{
    int i = branch_index(s, name);
    return i >= 0 ? &s->branches[i] : s->n_branches == 0 && strcmp(name, "main") == 0
                                          ? store_current(s) : NULL;
}

int64_t store_depth(const struct store *s, int64_t id)
{
    int64_t n = 0;
    for (const struct node *node; (node = store_node(s, id)); id = node->parent)
        n++;
    return n;
}

int64_t store_path(const struct store *s, const struct branch *b, int64_t *ids)
{
    int64_t depth = store_depth(s, b->tip), n = 0, at = depth;
    for (int64_t id = b->tip; at > b->n_skipped; id = store_node(s, id)->parent, at--) {
        n += store_node(s, id)->answered;
        if (ids && store_node(s, id)->answered)
            ids[n - 1] = id;
    }
    for (int64_t i = 0; ids && i < n / 2; i++) {
        int64_t other = ids[i];
        ids[i] = ids[n - 1 - i];
        ids[n - 1 - i] = other;
    }
    return n;
}

/* ---- reading ---- */

static void read_node(struct store *s, struct store_fields *f)
{
    int64_t id = store_field_number(f), parent = store_field_number(f);
    int64_t time_s = store_field_number(f);
    struct str question = store_field_text(f);
    if (!f->ok || id <= s->n_nodes)
        return; /* numbers only grow: parents come before their children */
    parent = nearest_node(s, parent);
    struct node *n = add_node(s, id, NULL);
    struct branch *b = n ? current(s, NULL) : NULL;
    if (!b)
        return;
    n->parent = parent;
    n->time_s = time_s;
    set_text(&n->question, question);
    b->tip = id;
}

static void read_answer(struct store *s, struct store_fields *f)
{
    struct node *n = store_node(s, store_field_number(f));
    int64_t time_s = store_field_number(f), n_tokens = store_field_number(f);
    struct str answer = store_field_text(f), thinking = store_field_text(f);
    if (!f->ok || !n)
        return;
    n->time_s = time_s;
    n->n_tokens = n_tokens;
    n->answered = true;
    set_text(&n->answer, answer);
    set_text(&n->thinking, thinking);
}

static void read_branch(struct store *s, struct store_fields *f)
{
    char name[STORE_NAME];
    struct str text = store_field_text(f);
    int64_t tip = store_field_number(f), n_skipped = store_field_number(f);
    snprintf(name, sizeof name, "%.*s", (int)min_of(text.len, sizeof name - 1), text.data);
    if (!f->ok || !store_check_name(name, NULL))
        return;
    int i = branch_index(s, name);
    if (i < 0 && add_branch(s, name, NULL))
        i = s->n_branches - 1;
    if (i < 0)
        return;
    s->current = i;
    s->branches[i].tip = nearest_node(s, tip);
    s->branches[i].n_skipped = max_of((int64_t)0, n_skipped);
}

static void read_setting(struct store *s, struct store_fields *f)
{
    struct str name = store_field_text(f), text = store_field_text(f);
    for (int i = 0; f->ok && i < N_STORE_SETTINGS; i++)
        if (str_is(name, setting_names[i]))
            set_text(&s->settings[i], text);
}

static void read_record(void *ctx, struct store_fields *f)
{
    static const struct {
        const char *type;
        void (*read)(struct store *s, struct store_fields *f);
    } types[] = { { "NODE", read_node }, { "ANSW", read_answer }, { "BRAN", read_branch },
                  { "SET_", read_setting } };
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (memcmp(f->type, types[i].type, 4) == 0)
            types[i].read(ctx, f);
}

static bool load(struct store *s, struct error *err)
{
    struct buf bytes = { 0 };
    bool ok = buf_read_file(&bytes, s->path, err) && buf_ok(&bytes, err) &&
              store_log_read(buf_str(&bytes), s->path, read_record, s, &s->n_lost, err);
    buf_release(&bytes);
    return ok;
}

/* ---- writing ---- */

static bool write_node(struct store *s, int64_t id, struct error *err)
{
    const struct node *n = store_node(s, id);
    store_log_begin(&s->log, "NODE");
    store_log_number(&s->log, id);
    store_log_number(&s->log, n->parent);
    store_log_number(&s->log, n->time_s);
    store_log_text(&s->log, buf_str(&n->question));
    return store_log_end(&s->log, err);
}

static bool write_answer(struct store *s, int64_t id, struct error *err)
{
    const struct node *n = store_node(s, id);
    store_log_begin(&s->log, "ANSW");
    store_log_number(&s->log, id);
    store_log_number(&s->log, n->time_s);
    store_log_number(&s->log, n->n_tokens);
    store_log_text(&s->log, buf_str(&n->answer));
    store_log_text(&s->log, buf_str(&n->thinking));
    return store_log_end(&s->log, err) && store_log_sync(&s->log, err);
}

static bool write_branch(struct store *s, const struct branch *b, struct error *err)
{
    store_log_begin(&s->log, "BRAN");
    store_log_text(&s->log, str_of(b->name));
    store_log_number(&s->log, b->tip);
    store_log_number(&s->log, b->n_skipped);
    return store_log_end(&s->log, err);
}

static bool write_setting(struct store *s, enum store_setting which, struct error *err)
{
    store_log_begin(&s->log, "SET_");
    store_log_text(&s->log, str_of(setting_names[which]));
    store_log_text(&s->log, buf_str(&s->settings[which]));
    return store_log_end(&s->log, err);
}

static bool write_all(struct store *s, struct error *err)
{
    bool ok = true;
    for (int i = 0; ok && i < N_STORE_SETTINGS; i++)
        ok = s->settings[i].len == 0 || write_setting(s, (enum store_setting)i, err);
    for (int64_t id = 1; ok && id <= s->n_nodes; id++)
        ok = !store_node(s, id) ||
             (write_node(s, id, err) && (!store_node(s, id)->answered || write_answer(s, id, err)));
    for (int i = 0; ok && i < s->n_branches; i++)
        ok = i == s->current || write_branch(s, &s->branches[i], err);
    return ok && (s->n_branches == 0 || write_branch(s, &s->branches[s->current], err)) &&
           store_log_sync(&s->log, err);
}

bool store_ask(struct store *s, int64_t parent, struct str question, int64_t *id,
               struct error *err)
{
    struct branch *b = current(s, err);
    struct node *n = b ? add_node(s, s->n_nodes + 1, err) : NULL;
    if (!n)
        return fail(err, ERR_FIT, "the conversation is too long");
    *id = s->n_nodes;
    n->parent = parent;
    n->time_s = (int64_t)time(NULL);
    set_text(&n->question, question);
    b->tip = *id;
    return buf_ok(&n->question, err) && write_node(s, *id, err);
}

bool store_answer(struct store *s, int64_t id, struct str answer, struct str thinking,
                  int64_t n_tokens, struct error *err)
{
    struct node *n = store_node(s, id);
    if (!n)
        return fail(err, ERR_INTERNAL, "an answer to a question that was not kept");
    n->time_s = (int64_t)time(NULL);
    n->n_tokens = n_tokens;
    n->answered = true;
    set_text(&n->answer, answer);
    set_text(&n->thinking, thinking);
    return buf_ok(&n->answer, err) && buf_ok(&n->thinking, err) && write_answer(s, id, err);
}

bool store_set(struct store *s, enum store_setting which, struct str text, struct error *err)
{
    struct buf *b = &s->settings[which];
    if (b->len == text.len && memcmp(buf_str(b).data, text.data, text.len) == 0)
        return true;
    set_text(b, text);
    return buf_ok(b, err) && write_setting(s, which, err);
}

bool store_branch(struct store *s, const char *name, int64_t tip, int64_t n_skipped,
                  struct error *err)
{
    if (!current(s, err))
        return false;
    int i = branch_index(s, name);
    if (i < 0 && !add_branch(s, name, err))
        return false;
    s->current = i < 0 ? s->n_branches - 1 : i;
    struct branch *b = &s->branches[s->current];
    b->tip = tip;
    b->n_skipped = n_skipped;
    return write_branch(s, b, err);
}

/* ---- open and close ---- */

/* "2026-11-23-1": the first of the day that is free. */
static bool make_folder_by_date(struct store *s, struct error *err)
{
    char day[16], name[STORE_NAME];
    time_t now = time(NULL);
    struct tm here;
    if (!localtime_r(&now, &here) || strftime(day, sizeof day, "%Y-%m-%d", &here) == 0)
        return fail(err, ERR_RUN, "the clock gives no date");
    for (int i = 1; i < 100000; i++) {
        snprintf(name, sizeof name, "%s-%d", day, i);
        if (!place(s, name, err))
            return false;
        if (mkdir(s->folder, 0700) == 0)
            return true;
        if (errno != EEXIST)
            break;
    }
    return fail(err, ERR_RUN, "%s: %s", s->folder, strerror(errno));
}

static bool make_folder(struct store *s, const char *name, struct error *err)
{
    if (!name)
        return make_folder_by_date(s, err);
    if (!place(s, name, err))
        return false;
    if (mkdir(s->folder, 0700) == 0)
        return true;
    return fail(err, errno == EEXIST ? ERR_USAGE : ERR_RUN, "session \"%s\": %s", name,
                errno == EEXIST ? "there is one of this name already" : strerror(errno));
}

static bool remove_files(const struct store *s, struct error *err)
{
    static const char *const files[] = { "cache", "cache.new", "talk", "lock" };
    char path[PATH_SIZE];
    bool ok = true;
    for (size_t i = 0; ok && i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%.*s/%s", PATH_SIZE - 16, s->folder, files[i]);
        ok = unlink(path) == 0 || errno == ENOENT || fail(err, ERR_RUN, "%s: %s", path,
                                                          strerror(errno));
    }
    return ok && (rmdir(s->folder) == 0 || fail(err, ERR_RUN, "%s: %s", s->folder, strerror(errno)));
}

bool store_create(struct store *s, const char *name, struct error *err)
{
    struct store other = { 0 };
    if (!make_folder(&other, name, err))
        return false;
    if (!lock(&other, err) || !store_log_create(&other.log, other.path, err)) {
        store_remove(&other, NULL);
        return false;
    }
    store_log_close(&s->log);
    unlock(s);
    memcpy(s->name, other.name, sizeof s->name);
    memcpy(s->folder, other.folder, sizeof s->folder);
    memcpy(s->path, other.path, sizeof s->path);
    s->lock = other.lock;
    s->locked = true;
    s->log = other.log;
    s->log.path = s->path;
    if (write_all(s, err))
        return true;
    remove_files(s, NULL); /* half a session would only take the name away */
    return false;
}

static bool find(struct store *s, const char *name, struct error *err)
{
    if (!place(s, name, err))
        return false;
    return access(s->path, F_OK) == 0 ||
           fail(err, ERR_FILE, "there is no session \"%s\" (tandem sessions list)", name);
}

bool store_look(struct store *s, const char *name, struct error *err)
{
    *s = (struct store){ 0 };
    if (find(s, name, err) && load(s, err))
        return true;
    store_close(s);
    return false;
}

bool store_open(struct store *s, const char *name, struct error *err)
{
    *s = (struct store){ 0 };
    if (find(s, name, err) && lock(s, err) && load(s, err) &&
        store_log_open(&s->log, s->path, err))
        return true;
    store_close(s);
    return false;
}

bool store_claim(struct store *s, const char *name, struct error *err)
{
    *s = (struct store){ 0 };
    if (find(s, name, err) && lock(s, err))
        return true;
    store_close(s);
    return false;
}

void store_close(struct store *s)
{
    store_log_close(&s->log);
    unlock(s);
    for (int64_t i = 0; i < s->n_nodes; i++) {
        buf_release(&s->nodes[i].question);
        buf_release(&s->nodes[i].answer);
        buf_release(&s->nodes[i].thinking);
    }
    for (int i = 0; i < N_STORE_SETTINGS; i++)
        buf_release(&s->settings[i]);
    mem_free(s->nodes);
    mem_free(s->branches);
    *s = (struct store){ 0 };
}

bool store_rename(struct store *s, const char *name, struct error *err)
{
    struct store other = { 0 };
    if (!place(&other, name, err))
        return false;
    if (store_exists(name))
        return fail(err, ERR_USAGE, "session \"%s\": there is one of this name already", name);
    if (rename(s->folder, other.folder) != 0)
        return fail(err, ERR_RUN, "%s: %s", other.folder, strerror(errno));
    memcpy(s->name, other.name, sizeof s->name);
    memcpy(s->folder, other.folder, sizeof s->folder);
    memcpy(s->path, other.path, sizeof s->path);
    return true;
}

bool store_remove(struct store *s, struct error *err)
{
    bool ok = remove_files(s, err);
    store_close(s);
    return ok;
}
