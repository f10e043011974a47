/* Caches in files that something happened to: damaged, cut short, locked, on a full disk, of
 * another model. A session holds the right prefix or none, and what is not ours is left as it was. */
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>

#include "src/base/util.h"
#include "src/engine/internal.h"
#include "tests/prefix_rig.h"

static bool put_file(const char *bytes, size_t n)
{
    int fd = open(store, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool ok = fd >= 0 && write(fd, bytes, n) == (ssize_t)n;
    if (fd >= 0)
        close(fd);
    return ok;
}

/* Whatever the file holds: refused untouched, or a session that goes on as a fresh one. */
static void check_damaged(struct session *s, const float *wanted, size_t n)
{
    struct prefix_file *f = NULL;
    struct error err = { 0 };
    int64_t n_read;
    session_truncate(s, 0);
    if (!prefix_file_open(&f, store, s, &err)) {
        CHECK_INT(err.code, ERR_FILE);
        CHECK_INT(file_size(), n);
        return;
    }
    CHECK_MSG(prefix_file_restore(f, s, text, 24, &n_read, NULL, NULL, &err), "%s", err.text);
    CHECK_INT(session_n_past(s), n_read);
    CHECK(n_read == 0 || n_read == 12 || n_read == 20);
    CHECK(go_on(s, text, 0, 21));
    CHECK(!memcmp(session_logits(s), wanted, N_VOCAB * sizeof *wanted));
    prefix_file_close(f);
}

static void test_damage(struct engine *e)
{
    struct session *s = session_of(e, 32, DRAFT_OFF);
    float wanted[N_VOCAB];
    size_t n = 0;
    unlink(store);
    struct prefix_file *f = s ? file_of(s) : NULL;
    check_case("a file of two segments");
    if (f && go_on(s, text, 0, 12) && save(f, s) && go_on(s, text, 0, 20) && save(f, s) &&
        go_on(s, text, 0, 21))
        memcpy(wanted, session_logits(s), sizeof wanted);
    prefix_file_close(f);
    char *bytes = check_read_file(store, &n);
    if (!CHECK(bytes && n > 1000)) {
        session_close(s);
        free(bytes);
        return;
    }
    size_t body = (n - HEAD - 2 * (SEGMENT + 4)) / 20, second = HEAD + SEGMENT + 4 + 12 * body;
    check_case("every bit of the heads");
    for (size_t i = 0; i < 8 * (HEAD + 2 * SEGMENT); i++) {
        size_t at = i / 8 < HEAD + SEGMENT ? i / 8 : second + i / 8 - HEAD - SEGMENT;
        bytes[at] ^= (char)(1 << i % 8);
        CHECK(put_file(bytes, n));
        check_damaged(s, wanted, n);
        bytes[at] ^= (char)(1 << i % 8);
    }
    check_case("any bit of the rest");
    for (int i = 0; i < 100; i++) {
        size_t at = HEAD + check_random() % (n - HEAD);
        char bit = (char)(1 << check_random() % 8);
        bytes[at] ^= bit;
        CHECK(put_file(bytes, n));
        check_damaged(s, wanted, n);
        bytes[at] ^= bit;
    }
    check_case("cut short anywhere");
    for (int i = 0; i < 200; i++) {
        size_t length = i < 120 ? (size_t)i + 1 : check_random() % n;
        CHECK(put_file(bytes, length));
        check_damaged(s, wanted, length);
    }
    check_case("sizes at the edges of their types");
    static const uint64_t edges[] = { 0, 1, UINT32_MAX, INT64_MAX, (uint64_t)1 << 63, UINT64_MAX };
    for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
        for (size_t field = 8; field < 36; field += 8) {
            char saved[8];
            memcpy(saved, bytes + second + field, 8);
            memcpy(bytes + second + field, &edges[i], 8);
            CHECK(put_file(bytes, n));
            check_damaged(s, wanted, n);
            memcpy(bytes + second + field, saved, 8);
        }
    }
    check_case("a torn end is cut off, and written again");
    CHECK(put_file(bytes, n - 5));
    session_truncate(s, 0);
    f = file_of(s);
    CHECK_INT(file_size(), second);
    CHECK_INT(restored(f, s, text, 20), 12);
    CHECK(go_on(s, text, 0, 20) && save(f, s));
    prefix_file_close(f);
    CHECK_INT(file_size(), n);
    free(bytes);
    session_close(s);
}

/* A disk with room for so many bytes of a file. */
static void limit_files(uint64_t bytes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes ? bytes : limit.rlim_max;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static void test_full_disk(struct engine *e)
{
    struct session *s = session_of(e, 64, DRAFT_OFF), *t = session_of(e, 64, DRAFT_OFF);
    struct error err = { 0 };
    unlink(store);
    signal(SIGXFSZ, SIG_IGN);
    check_case("a full disk: a file that cannot be begun is not there");
    struct prefix_file *f = NULL;
    limit_files(1);
    CHECK(s && !prefix_file_open(&f, store, s, &err));
    limit_files(0);
    CHECK_INT(err.code, ERR_RUN);
    CHECK(access(store, F_OK) != 0);
    error_clear(&err);
    check_case("a full disk leaves the file as it was, wherever it stops");
    f = s ? file_of(s) : NULL;
    if (f && t && go_on(s, text, 0, 20) && save(f, s) && go_on(s, text, 0, 30)) {
        uint64_t before = file_size(), after;
        struct prefix_file *whole;
        for (uint64_t room = 0; room < 4000; room += 97) {
            limit_files(before + room);
            bool ok = prefix_file_save(f, s, 0, &err);
            limit_files(0);
            if (ok)
                break;
            CHECK_INT(err.code, ERR_RUN);
            error_clear(&err);
            CHECK_INT(file_size(), before);
        }
        limit_files(before); /* nor can it begin anew */
        CHECK(go_on(s, text, 0, 40) && !prefix_file_save(f, s, 1, &err));
        limit_files(0);
        error_clear(&err);
        CHECK(save(f, s));
        after = file_size();
        CHECK(after > before);
        prefix_file_close(f);
        f = NULL;
        whole = file_of(t);
        CHECK_INT(restored(whole, t, text, 60), 40);
        prefix_file_close(whole);
    }
    prefix_file_close(f);
    session_close(t);
    session_close(s);
}

static void test_changed_model(void)
{
    char path[256];
    struct error err = { 0 };
    check_case("what a model computed that was changed meanwhile is not kept");
    tiny_path(path, "changed");
    unlink(store);
    struct engine *e = tiny_write(path, "--arch deepseek2") ? engine_of(path, true, GPU_NEVER) : NULL;
    struct session *s = session_of(e, 32, DRAFT_OFF);
    struct prefix_file *f = s ? file_of(s) : NULL;
    if (f && go_on(s, text, 0, 12) && save(f, s)) {
        uint64_t before = file_size();
        struct timespec other[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };
        CHECK(go_on(s, text, 0, 20) && utimensat(AT_FDCWD, path, other, 0) == 0);
        CHECK(!prefix_file_save(f, s, 0, &err));
        CHECK_INT(err.code, ERR_RUN);
        CHECK_INT(file_size(), before);
    }
    prefix_file_close(f);
    session_close(s);
    engine_close(e);
    unlink(path);
}

static void check_refused(struct session *s, const char *reason)
{
    struct prefix_file *f = NULL;
    struct error err = { 0 };
    uint64_t before = file_size();
    CHECK(!prefix_file_open(&f, store, s, &err));
    CHECK_INT(err.code, ERR_FILE);
    CHECK_MSG(strstr(err.text, reason), "%s", err.text);
    CHECK_INT(file_size(), before);
    prefix_file_close(f);
}

static void test_foreign(struct engine *e)
{
    char twin[256], other[256];
    check_case("a file of another model, type of cache, or of anything else is refused untouched");
    unlink(store);
    tiny_path(twin, "twin");
    tiny_path(other, "other");
    struct session *s = session_of(e, 32, DRAFT_OFF);
    struct prefix_file *f = s ? file_of(s) : NULL;
    if (f && go_on(s, text, 0, 12))
        save(f, s);
    prefix_file_close(f);
    struct engine *f16 = engine_of(tiny, false, GPU_NEVER);
    struct session *u = session_of(f16, 32, DRAFT_OFF);
    check_refused(u, "another model");
    session_close(u);
    engine_close(f16);
    /* the same header, other weights; and another architecture */
    if (tiny_write(twin, "--arch deepseek2 --seed 2") && tiny_write(other, "--arch qwen2")) {
        for (int i = 0; i < 2; i++) {
            struct engine *another = engine_of(i ? other : twin, true, GPU_NEVER);
            u = session_of(another, 32, DRAFT_OFF);
            if (u)
                check_refused(u, "another model");
            session_close(u);
            engine_close(another);
        }
    }
    static const char junk[] = "This is a text that somebody needs, and no file of ours at all.....";
    CHECK(put_file(junk, sizeof junk));
    check_refused(s, "not a file of cached prompts");
    session_close(s);
    unlink(twin);
    unlink(other);
}

int main(void)
{
    if (prefix_rig_open()) {
        struct engine *e = engine_of(tiny, true, GPU_NEVER);
        if (e) {
            test_damage(e);
            test_full_disk(e);
            test_changed_model();
            test_foreign(e);
        }
        engine_close(e);
    }
    prefix_rig_close();
    return check_finish();
}
