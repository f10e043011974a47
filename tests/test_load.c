/* Loading: every mode computes the same, from any file system and through any interruption; and what
 * is loaded is there: decoding takes no page fault, and no more memory than was said. */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "cpu/features.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/engine.h"
#include "src/model/arch.h"
#include "tests/tiny_model.h"

#define N_TEXT 24
#define MIB (1024.0 * 1024.0)

/* The sanitizer has a byte of its own for every eight of ours, and takes them when they are used. */
#ifdef __SANITIZE_ADDRESS__
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif

/* ---- system calls that fail when told to; they stand before the C library's ---- */

static atomic_int n_reads, n_direct, n_locks;
static bool refuse_direct_open, refuse_direct_read, refuse_locks;
static bool read_badly;    /* every second call is interrupted, the others read little */
static int fail_read = -1; /* this call and all later ones: EIO */

static bool is_direct(int fd)
{
    return (syscall(SYS_fcntl, fd, F_GETFL) & O_DIRECT) != 0;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    if (refuse_direct_open && (flags & O_DIRECT)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

ssize_t pread(int fd, void *to, size_t n, off_t offset)
{
    int call = atomic_fetch_add(&n_reads, 1);
    bool direct = is_direct(fd);
    atomic_fetch_add(&n_direct, direct);
    if (fail_read >= 0 && call >= fail_read)
        errno = EIO;
    else if (refuse_direct_read && direct)
        errno = EINVAL;
    else if (read_badly && call % 2 == 0)
        errno = EINTR;
    else if (read_badly)
        return syscall(SYS_pread64, fd, to, n > 8192 ? 8192 : direct ? n : n / 2 + 1, offset);
    else
        return syscall(SYS_pread64, fd, to, n, offset);
    return -1;
}

int mlock(const void *data, size_t bytes)
{
    (void)data, (void)bytes;
    atomic_fetch_add(&n_locks, 1);
    errno = ENOMEM;
    return refuse_locks && n_locks > 3 ? -1 : 0;
}

int munlock(const void *data, size_t bytes)
{
    (void)data, (void)bytes;
    atomic_fetch_sub(&n_locks, 1);
    return 0;
}

static char noted[2048];

static void keep_note(void *ctx, enum log_level level, const char *line)
{
    (void)ctx;
    if (level != LOG_DETAIL)
        snprintf(noted + strlen(noted), sizeof noted - strlen(noted), "%s\n", line);
}

/* ---- helpers ---- */

static char small_path[256], split_path[256], fused_path[256], large_path[256];
static int32_t text[N_TEXT];

static bool open_both(struct engine **e, struct session **s, const char *path,
                      const struct engine_options *o, int64_t n_ctx, struct error *err)
{
    struct session_options so = { .n_ctx = n_ctx };
    *e = NULL;
    *s = NULL;
    return engine_open(e, path, o, err) && session_open(s, *e, &so, err);
}

/* Logits behind the text (less of it in plain C, which takes a second for ten tokens of the large
 * model) and one token more; false when it could not be loaded. */
static bool logits_with(const char *path, const struct engine_options *o, float *out,
                        struct error *err)
{
    struct engine *e;
    struct session *s;
    bool ok = open_both(&e, &s, path, o, 64, err) &&
              session_prefill(s, text, cpu_isa() ? N_TEXT : 4, NULL, NULL, err) &&
              session_decode(s, 5, err);
    if (ok) {
        CHECK_INT(engine_nodes(e), max_of(o->n_nodes, 1));
        memcpy(out, session_logits(s), (size_t)engine_model(e)->params.n_vocab * sizeof *out);
    }
    session_close(s);
    engine_close(e);
    return ok;
}

static bool logits_of(const char *path, enum load_mode mode, float *out, struct error *err)
{
    struct engine_options o = { .n_threads = 2, .load = mode, .n_batch = 16, .n_nodes = 1 };
    return logits_with(path, &o, out, err);
}

static const char *const mode_name[] = { "auto", "mmap", "copy", "direct" };

#define N_VOCAB 320

static void expect_same(const char *path, enum load_mode mode, const float *wanted)
{
    struct error err = { 0 };
    float found[N_VOCAB] = { 0 };
    if (CHECK_MSG(logits_of(path, mode, found, &err), "%s: %s", mode_name[mode], err.text))
        CHECK_MSG(memcmp(found, wanted, sizeof found) == 0, "--load %s computes other logits",
                  mode_name[mode]);
}

static void test_modes(void)
{
    float wanted[N_VOCAB];
    struct error err = { 0 };
    const char *const path[] = { small_path, split_path };
    for (int i = 0; i < 2; i++) {
        check_case("%s: the same logits in every mode", i ? "a split file" : "one file");
        if (!CHECK_MSG(logits_of(path[i], LOAD_MMAP, wanted, &err), "%s", err.text))
            return;
        for (int mode = LOAD_AUTO; mode <= LOAD_DIRECT; mode++) {
            n_direct = 0;
            expect_same(path[i], (enum load_mode)mode, wanted);
            CHECK_INT(n_direct > 0, mode == LOAD_DIRECT);
        }
    }

    check_case("short and interrupted reads");
    read_badly = true;
    expect_same(small_path, LOAD_COPY, wanted);
    expect_same(small_path, LOAD_DIRECT, wanted);
    read_badly = false;

    for (int i = 0; i < 2; i++) {
        check_case("a file system that refuses direct %s", i ? "reading" : "opening");
        refuse_direct_open = i == 0;
        refuse_direct_read = i == 1;
        noted[0] = 0;
        log_set_sink(keep_note, NULL);
        expect_same(split_path, LOAD_DIRECT, wanted);
        log_set_sink(NULL, NULL);
        const char *first = strstr(noted, "refuses to read past the page cache");
        CHECK_MSG(first && !strstr(first + 1, "refuses"), "noted \"%s\", wanted one line", noted);
        refuse_direct_open = refuse_direct_read = false;
    }
}

/* ---- memory nodes ---- */

/* The same bits for any number of nodes and threads; large: more nodes than a tile of rows has. */
static void test_nodes(const char *path, const char *what, bool act_f32)
{
    static float wanted[2048], found[2048];
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 2, .load = LOAD_COPY, .n_nodes = 1, .n_batch = 16,
                                .act_f32 = act_f32 };
    memset(wanted, 0, sizeof wanted);
    if (!CHECK_MSG(logits_with(path, &o, wanted, &err), "%s", err.text))
        return;
    for (int nodes = 1; nodes <= 4; nodes++) {
        for (int threads = 1; threads <= 3; threads += 2) {
            check_case("%s%s, %d nodes, %d threads: the same bits", what, act_f32 ? ", F32" : "",
                       nodes, threads);
            o.n_nodes = nodes;
            o.n_threads = threads;
            o.load = threads == 3 ? LOAD_DIRECT : LOAD_COPY;
            memset(found, 0, sizeof found);
            if (CHECK_MSG(logits_with(path, &o, found, &err), "%s", err.text))
                CHECK(memcmp(found, wanted, sizeof found) == 0);
        }
    }
}

/* Every byte of every expert is where weight_at says, and what is split lies in its part. */
static void test_places(const char *path, int n_parts, int n_split_wanted)
{
    struct model m;
    struct error err = { 0 };
    struct load_options o = { .mode = LOAD_COPY, .n_parts = n_parts };
    check_case("%s in %d parts: every row where it is looked for", strrchr(path, '/') + 1, n_parts);
    if (!CHECK(model_open(&m, path, NUMERICS_OFFICIAL, &err)))
        return;
    CHECK_MSG(model_load(&m, &o, &err), "%s", err.text);
    int n_split = 0;
    for (int i = 0; i < m.n_tensors; i++) {
        const struct weight *w = m.tensors[i].weight;
        if (m.tensors[i].role != ROLE_ROUTED)
            continue;
        const char *in_file = m.tensors[i].tensor->data;
        if (m.tensors[i].spec->shape[1] == DIM_EXPERT2)
            continue; /* two weights in one: its logits are compared above */
        n_split += w->part_rows > 0;
        CHECK(w->part_rows % 16 == 0 && w->part_rows <= w->rows);
        for (int64_t row = 0; row < w->rows * w->n_matrices; row++) {
            const char *at = weight_at(w, row / w->rows, row % w->rows);
            const char *copy = m.copy;
            CHECK(at >= copy && at + w->row_bytes <= copy + m.copy_bytes);
            CHECK(memcmp(at, in_file + (size_t)row * w->row_bytes, w->row_bytes) == 0);
        }
        if (w->part_rows > 0) {
            CHECK_INT((const char *)weight_at(w, 0, w->part_rows) - (const char *)w->data,
                      w->part_bytes);
            CHECK(w->part_bytes % (2 << 20) == 0);
        }
    }
    CHECK_INT(n_split, n_split_wanted);
    model_close(&m);
}

/* ---- interruption and damage: an error, and nothing is left behind ---- */

static int count_files(const char *folder)
{
    int n = 0;
    DIR *dir = opendir(folder);
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

/* Threads of this process, once they are no more than so many: one that has been joined is listed until
 * the system has found time to take it away. */
static int count_threads(int most)
{
    int n = 0;
    for (int i = 0; i < 10000 && (n = count_files("/proc/self/task")) > most; i++)
        usleep(1000);
    return n;
}

static long mapped_kib(void)
{
    char line[256];
    long kib = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && kib < 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "VmSize: %ld", &kib) != 1)
            kib = -1;
    if (f)
        fclose(f);
    return kib;
}

struct watch {
    int calls, stop_at;
    const char *truncate_path; /* at the first call */
};

static bool on_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct watch *w = ctx;
    CHECK(done <= total);
    if (w->calls == 0 && w->truncate_path)
        CHECK_INT(truncate(w->truncate_path, 300000), 0);
    return ++w->calls != w->stop_at;
}

/* Load with this watch on; the code of the error, 0 when it loaded. */
static int load_watched(const char *path, enum load_mode mode, struct watch *w, char *said)
{
    struct engine *e = NULL;
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 2, .load = mode, .progress = on_progress,
                                .progress_ctx = w };
    bool ok = engine_open(&e, path, &o, &err);
    engine_close(e);
    snprintf(said, sizeof err.text, "%s", err.text);
    return ok ? 0 : (int)err.code;
}

static void test_interruption(void)
{
    char said[sizeof ((struct error *)0)->text];
    for (int mode = LOAD_MMAP; mode <= LOAD_DIRECT; mode++) {
        check_case("--load %s, interrupted: nothing is left", mode_name[mode]);
        struct watch whole = { 0 };
        CHECK_INT(load_watched(large_path, (enum load_mode)mode, &whole, said), 0);
        CHECK(whole.calls >= 2);
        int fds = count_files("/proc/self/fd"), threads = count_files("/proc/self/task");
        long kib = mapped_kib();
        for (int stop_at = 1; stop_at <= min_of(whole.calls, 3); stop_at++) {
            struct watch w = { .stop_at = stop_at };
            int code = load_watched(large_path, (enum load_mode)mode, &w, said);
            /* Fewer calls than last time may do: then it was not interrupted. */
            CHECK_MSG(code == ERR_INTERRUPTED || (code == 0 && w.calls < stop_at),
                      "stopped at call %d: code %d, %s", stop_at, code, said);
            CHECK(w.calls <= stop_at + 1);
        }
        CHECK_INT(count_files("/proc/self/fd"), fds);
        CHECK_MSG(count_threads(threads) <= threads, "more than %d threads", threads);
        CHECK_MSG(mapped_kib() <= kib + 1024 || sanitized, "%ld KiB mapped, before %ld", mapped_kib(), kib);
    }
}

static void test_damage(void)
{
    char path[256], command[600], said[sizeof ((struct error *)0)->text];
    tiny_path(path, "cut");
    for (int mode = LOAD_MMAP; mode <= LOAD_DIRECT; mode++) {
        struct watch w = { .truncate_path = path };
        check_case("--load %s: a file cut short while loading", mode_name[mode]);
        snprintf(command, sizeof command, "cp %s %s", small_path, path);
        CHECK_INT(system(command), 0);
        CHECK_INT(load_watched(path, (enum load_mode)mode, &w, said), ERR_RUN);
        CHECK_MSG(strstr(said, "model file changed or unreadable at offset"), "%s", said);
    }
    unlink(path);
    for (int mode = LOAD_COPY; mode <= LOAD_DIRECT; mode++) {
        check_case("--load %s: a disk that fails", mode_name[mode]);
        for (int n = 0; n < 8; n += 3) {
            struct watch w = { 0 };
            n_reads = 0;
            fail_read = n;
            CHECK_INT(load_watched(small_path, (enum load_mode)mode, &w, said), ERR_RUN);
            fail_read = -1;
            CHECK_MSG(strstr(said, "unreadable at offset") && strstr(said, small_path), "%s", said);
        }
    }
}

/* Every allocation of loading fails once, the readers' too. */
static void test_failing_allocations(void)
{
    check_case("failed allocations while copying are reported and leak nothing");
    bool done = false;
    uint64_t n = 0;
    int fds = count_files("/proc/self/fd");
    for (; !done && n < 10000; n++) {
        struct engine *e = NULL;
        struct error err = { 0 };
        struct engine_options o = { .n_threads = 2, .load = LOAD_DIRECT, .n_nodes = 2 };
        mem_fail_after(n);
        done = engine_open(&e, small_path, &o, &err);
        mem_fail_never();
        CHECK_MSG(done || err.code == ERR_FIT, "allocation %llu: code %d, %s",
                  (unsigned long long)n, (int)err.code, err.text);
        engine_close(e);
    }
    CHECK(done && n > 8);
    CHECK_INT(count_files("/proc/self/fd"), fds);
}

static void test_lock(void)
{
    char said[sizeof ((struct error *)0)->text];
    for (int refuse = 0; refuse < 2; refuse++) {
        struct engine *e = NULL;
        struct error err = { 0 };
        struct engine_options o = { .n_threads = 2, .load = refuse ? LOAD_MMAP : LOAD_COPY,
                                    .lock = true };
        struct rlimit before, little = { 1 << 16, 1 << 16 };
        check_case("--mlock, %s", refuse ? "refused: a note that helps" : "granted");
        getrlimit(RLIMIT_MEMLOCK, &before);
        if (before.rlim_max < little.rlim_cur) {
            check_skip("nobody may lock as much as 64 KiB here");
            continue;
        }
        little.rlim_max = before.rlim_max;
        CHECK_INT(setrlimit(RLIMIT_MEMLOCK, &little), 0);
        refuse_locks = refuse;
        n_locks = 0;
        noted[0] = said[0] = 0;
        log_set_sink(keep_note, NULL);
        CHECK_MSG(engine_open(&e, small_path, &o, &err), "%s", err.text);
        log_set_sink(NULL, NULL);
        setrlimit(RLIMIT_MEMLOCK, &before);
        CHECK_INT(strstr(noted, "may lock 64 KiB") && strstr(noted, "ulimit -l"), refuse);
        CHECK_MSG(refuse ? n_locks <= 0 : n_locks > 10, "%d ranges stay locked", (int)n_locks);
        engine_close(e);
    }
}

/* ---- what is loaded is there ---- */

static long faults(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_minflt + u.ru_majflt;
}

/* The fewest faults of a few stretches of decoding: the system may move pages for its own reasons
 * once, a page that we touch late faults in every stretch. */
static void test_faults(enum load_mode mode)
{
    struct engine *e;
    struct session *s;
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 2, .load = mode };
    check_case("--load %s: decoding takes no page fault and allocates nothing", mode_name[mode]);
    if (CHECK_MSG(open_both(&e, &s, large_path, &o, 2048, &err), "%s", err.text)) {
        long least = 1000000;
        int32_t token = 1;
        for (int i = 0; i < 2; i++) /* stacks, code, the clock: once */
            CHECK(session_decode(s, token++, &err));
        uint64_t allocations = mem_allocations();
        for (int stretch = 0; stretch < 4; stretch++) {
            long before = faults();
            for (int i = 0; i < (cpu_isa() ? 16 : 2); i++)
                if (!session_decode(s, token = (token * 53 + 7) % 2000, &err))
                    CHECK_MSG(false, "%s", err.text);
            least = min_of(least, faults() - before);
        }
        CHECK_MSG(least == 0 || sanitized, "%ld page faults while decoding", least);
        CHECK_INT(mem_allocations() - allocations, 0);
    }
    session_close(s);
    engine_close(e);
}

static double resident_mib(const char *label)
{
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && kib == 0 && fgets(line, sizeof line, f))
        if (strncmp(line, label, strlen(label)) == 0)
            sscanf(line + strlen(label), "%ld", &kib);
    if (f)
        fclose(f);
    return (double)kib / 1024;
}

static void reset_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (f) {
        fputs("5", f);
        fclose(f);
    }
}

/* Peak memory against the report: all of it from the beginning, and at most 5 % more later. */
static void test_peak(enum load_mode mode)
{
    struct engine *e;
    struct session *s;
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 2, .load = mode };
    check_case("--load %s: the memory report tells what is taken", mode_name[mode]);
    if (sanitized) {
        check_skip("the sanitizer's own memory counts too");
        return;
    }
    double before = resident_mib("VmRSS:");
    reset_peak();
    if (CHECK_MSG(open_both(&e, &s, large_path, &o, 8192, &err), "%s", err.text)) {
        double opened = resident_mib("VmRSS:") - before;
        int32_t prompt[600];
        int n = cpu_isa() ? 600 : 20;
        for (int i = 0; i < n; i++)
            prompt[i] = i % 2000;
        CHECK(session_prefill(s, prompt, n, NULL, NULL, &err));
        for (int i = 0; i < 4; i++)
            CHECK(session_decode(s, i, &err));
        struct memory_report r;
        session_memory(s, &r);
        double said = (double)(r.mapped_bytes + r.copied_bytes + r.cache_bytes + r.work_bytes) / MIB;
        double took = resident_mib("VmHWM:") - before;
        CHECK_MSG(took <= 1.05 * said, "took %.1f MiB, the report says %.1f", took, said);
        CHECK_MSG(opened >= 0.95 * said, "opened with %.1f MiB, the report says %.1f", opened, said);
        uint64_t file = engine_model(e)->weight_bytes;
        CHECK((mode == LOAD_MMAP ? r.mapped_bytes : r.copied_bytes) >= file);
        CHECK_INT(mode == LOAD_MMAP ? r.copied_bytes < file / 20 : r.mapped_bytes == 0, true);
    }
    session_close(s);
    engine_close(e);
}

int main(void)
{
    for (int i = 0; i < N_TEXT; i++)
        text[i] = (i * 53 + 7) % N_VOCAB;
    tiny_path(small_path, "small");
    tiny_path(large_path, "large");
    tiny_path(fused_path, "fused");
    snprintf(split_path, sizeof split_path, "%s/tests/parts.%d-00001-of-00003.gguf", build_folder(),
             (int)getpid());
    char parts[300];
    snprintf(parts, sizeof parts, "%s/tests/parts.%d.gguf", build_folder(), (int)getpid());
    check_case("the models");
    if (tiny_write(small_path, "--like tiny-v2-lite") &&
        tiny_write(parts, "--like tiny-v2-lite --split 3") &&
        tiny_write(fused_path, "--like tiny-v2-lite --generation fused") &&
        tiny_write(large_path, "--like v2-lite --layers 2 --vocab 2048 --type q2_k")) {
        test_peak(LOAD_COPY); /* first: later ones reuse freed memory */
        test_peak(LOAD_MMAP);
        test_faults(LOAD_COPY);
        test_faults(LOAD_MMAP);
        test_modes();
        test_nodes(large_path, "1408 rows", false);
        test_nodes(fused_path, "fused gate and up", false);
        test_nodes(fused_path, "fused gate and up", true);
        test_places(large_path, 3, 3);
        test_places(large_path, 4, 3);
        test_places(small_path, 5, 0);
        test_interruption();
        test_damage();
        test_failing_allocations();
        test_lock();
    }
    unlink(small_path);
    unlink(large_path);
    unlink(fused_path);
    for (int i = 1; i <= 3; i++) {
        snprintf(parts, sizeof parts, "%s/tests/parts.%d-%05d-of-00003.gguf", build_folder(),
                 (int)getpid(), i);
        unlink(parts);
    }
    return check_finish();
}
