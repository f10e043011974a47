/* Runs of tandem quantize that do not get to their end: stopped and taken up, killed, without
 * room, with an input that shrinks; afterwards the same bytes stand there as after one run, or
 * none. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "src/cli/buf.h"
#include "tests/quantize_rig.h"
#include "tools/quantize_plan.h"

struct attempt {
    double sync_s;
    atomic_int cancel;
    uint64_t cancel_at; /* bytes; 0: never */
    const char *cut;    /* at that moment this file is cut short instead; NULL: none */
    uint64_t taken_up, chunks, safe;
};

static void maybe_cancel(void *ctx, uint64_t done, uint64_t total)
{
    struct attempt *a = ctx;
    (void)total;
    if (!a->cancel_at || done < a->cancel_at)
        return;
    if (a->cut)
        CHECK(truncate(path(a->cut), 60000) == 0);
    else
        atomic_store(&a->cancel, 1);
}

/* The job of the command with small chunks, so that there is something to stop: in.gguf to NAME.
 * One that is to be stopped has one worker: the first reports progress, and a second one could be
 * done before the first has begun. */
static bool attempt(const char *name, const char *type, bool resume, struct attempt *a,
                    struct error *err)
{
    struct options o = { .tensor_types.n = 0 };
    struct quantize_plan p = { 0 };
    struct gguf_writer w = { 0 };
    struct journal j = { 0 };
    struct buf text = { 0 };
    struct pool *pool = NULL;
    char out[192];
    bool found = false, taken = false;
    snprintf(out, sizeof out, "%s", path(name));
    bool ok = quantize_plan_open(&p, &o, path(a->cut ? a->cut : "in.gguf"), NULL, type, err) &&
              quantize_plan_announce(&p, &w, err) && quantize_plan_describe(&p, &o, &text, err) &&
              pool_open(&pool, a->cancel_at ? 1 : 2, err);
    if (ok && resume)
        ok = journal_resume(&j, out, text.data, &found, err);
    if (ok && !found)
        ok = journal_create(&j, out, text.data, err);
    if (ok)
        ok = found ? gguf_writer_resume(&w, out, &taken, err) : gguf_writer_begin(&w, out, err);
    if (ok && found && !taken) {
        journal_close(&j);
        ok = journal_create(&j, out, text.data, err);
    }
    struct transcode t = { .writer = &w, .pool = pool, .tensors = p.tensors,
                           .n_tensors = p.types.n, .journal = &j,
                           .sync_s = a->sync_s,
                           .chunk_elements = 512, .progress = maybe_cancel, .progress_ctx = a,
                           .cancel = &a->cancel };
    if (ok) {
        gguf_writer_keep(&w);
        ok = transcode_run(&t, err) && gguf_writer_finish(&w, err);
        a->taken_up = t.n_taken_up;
        a->safe = t.safe_bytes;
        a->chunks = t.n_chunks;
        if (ok)
            journal_remove(&j);
    }
    journal_close(&j);
    gguf_writer_release(&w);
    pool_close(pool);
    buf_release(&text);
    quantize_plan_close(&p);
    return ok;
}

static void test_stop(void)
{
    struct attempt a = { .sync_s = 1e-9 };
    struct error err = { 0 };
    check_case("small chunks give the same bytes as large ones");
    RUN(0, "in.gguf whole.gguf q4_k_m 1");
    CHECK_MSG(attempt("small.gguf", "q4_k_m", false, &a, &err), "%s", err.text);
    CHECK(same_bytes("whole.gguf", "small.gguf"));
    CHECK(count_names(".small") == 0);

    check_case("stopped in the middle, and taken up");
    a = (struct attempt){ .sync_s = 1e-9, .cancel_at = 40000 };
    CHECK(!attempt("stop.gguf", "q4_k_m", false, &a, &err));
    CHECK_INT(err.code, ERR_INTERRUPTED);
    CHECK(!exists("stop.gguf") && exists(".stop.gguf.part") && exists(".stop.gguf.journal"));
    RUN(2, "in.gguf stop.gguf q4_k_m"); /* the input by another path; what is finished stays */
    said("another job");
    said("--force");
    CHECK(!exists("stop.gguf") && exists(".stop.gguf.part") && exists(".stop.gguf.journal"));
    a = (struct attempt){ .sync_s = 1e-9 };
    err = (struct error){ 0 };
    CHECK_MSG(attempt("stop.gguf", "q4_k_m", true, &a, &err), "%s", err.text);
    CHECK_MSG(a.taken_up > 0 && a.taken_up < a.chunks, "%llu of %llu",
              (unsigned long long)a.taken_up,
              (unsigned long long)a.chunks);
    CHECK(same_bytes("whole.gguf", "stop.gguf"));
    CHECK(count_names(".stop") == 0);

    check_case("another job is not mixed in");
    a = (struct attempt){ .sync_s = 1e-9, .cancel_at = 40000 };
    err = (struct error){ 0 };
    CHECK(!attempt("mix.gguf", "q4_k_m", false, &a, &err));
    a = (struct attempt){ .sync_s = 1e-9 };
    err = (struct error){ 0 };
    CHECK(!attempt("mix.gguf", "q4_k_s", true, &a, &err));
    CHECK_INT(err.code, ERR_USAGE);
    CHECK(strstr(err.text, "mixture Q4_K_M") && strstr(err.text, "mixture Q4_K_S"));

    check_case("only --force begins anew");
    a = (struct attempt){ .sync_s = 1e-9, .cancel_at = 40000 };
    err = (struct error){ 0 };
    CHECK(!attempt("anew.gguf", "q4_k_s", false, &a, &err));
    RUN(2, "in.gguf anew.gguf q4_k_m --resume --force"); /* which of them? */
    said("without --resume");
    RUN(0, "in.gguf anew.gguf q4_k_m --force");
    CHECK(same_bytes("whole.gguf", "anew.gguf"));
    CHECK(count_names(".anew") == 0);

    check_case("damage to journal and data is found");
    int fd = open(path(".mix.gguf.journal"), O_WRONLY | O_APPEND);
    CHECK(fd >= 0 && write(fd, "torn record", 11) == 11);
    close(fd);
    fd = open(path(".mix.gguf.part"), O_RDWR);
    char byte = 0;
    CHECK(fd >= 0 && pread(fd, &byte, 1, 4096) == 1);
    byte = (char)~byte;
    CHECK(pwrite(fd, &byte, 1, 4096) == 1); /* in the first tensor */
    close(fd);
    a = (struct attempt){ .sync_s = 1e-9 };
    err = (struct error){ 0 };
    CHECK_MSG(attempt("mix.gguf", "q4_k_m", true, &a, &err), "%s", err.text);
    CHECK(a.taken_up > 0);
    CHECK(same_bytes("whole.gguf", "mix.gguf"));

    check_case("two runs for one output");
    struct journal j = { 0 };
    CHECK(journal_create(&j, path("busy.gguf"), "mine", &err));
    RUN(1, "in.gguf busy.gguf q8_0");
    said("another run");
    CHECK(exists(".busy.gguf.journal")); /* the other's journal is left alone */
    journal_remove(&j);
    RUN(0, "in.gguf busy.gguf q8_0 --resume");
    said("beginning anew");
}

/* The input becomes shorter while it is read. */
static void test_read_error(void)
{
    struct attempt a = { .sync_s = 1e-9, .cancel_at = 20000, .cut = "cut.gguf" };
    struct error err = { 0 };
    size_t n = 0;
    check_case("an input that cannot be read any more");
    char *bytes = check_read_file(path("in.gguf"), &n);
    write_bytes("cut.gguf", bytes ? bytes : "", n);
    free(bytes);
    CHECK(!attempt("short.gguf", "q4_k_m", false, &a, &err));
    CHECK_INT(err.code, ERR_RUN);
    CHECK_MSG(strstr(err.text, "cut.gguf") && strstr(err.text, "shorter"), "%s", err.text);
    CHECK_MSG(a.safe >= 20000, "%llu bytes are safe", (unsigned long long)a.safe);
    CHECK(!exists("short.gguf") && exists(".short.gguf.part") && exists(".short.gguf.journal"));
}

/* Records in the journal of an output; 0 in one without a complete plan, -1 without a journal. */
static long journal_records(const char *name)
{
    char file[64];
    size_t size = 0;
    uint32_t plan = 0;
    snprintf(file, sizeof file, ".%s.journal", name);
    char *bytes = check_read_file(path(file), &size);
    long n = bytes ? 0 : -1;
    if (bytes && size >= 20) {
        memcpy(&plan, bytes + 12, 4);
        n = size > 20 + (size_t)plan ? (long)((size - 20 - plan) / 16) : 0;
    }
    free(bytes);
    return n;
}

/* Kill a run at random moments, ever later, until one gets through; returns the number of kills. */
static int kill_until_done(long *most_records)
{
    int kills = 0;
    long before = 0;
    for (int round = 0; round < 200 && !exists("kill.gguf"); round++) {
        int pipes[2];
        if (!CHECK(pipe(pipes) == 0))
            return 0;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            struct attempt a = { .sync_s = 1e-9 };
            struct error err = { 0 };
            char ready = 1;
            ready = write(pipes[1], &ready, 1) == 1;
            bool ok = attempt("kill.gguf", "q4_k_m", true, &a, &err);
            _exit(ok ? 0 : (int)err.code);
        }
        char ready;
        int status;
        CHECK(read(pipes[0], &ready, 1) == 1);
        usleep((useconds_t)(check_random() % (uint64_t)(2000 + 400 * round + 40 * round * round)));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        close(pipes[0]);
        close(pipes[1]);
        kills += WIFSIGNALED(status);
        long records = journal_records("kill.gguf"); /* a torn one may go, no more */
        CHECK_MSG(records < 0 || records + 1 >= before, "round %d: %ld records, %ld before", round,
                  records, before);
        before = records > before ? records : before;
        CHECK_MSG(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "round %d: code %d", round,
                  WEXITSTATUS(status));
    }
    *most_records = max_of(*most_records, before);
    return kills;
}

static void test_kill(void)
{
    int rounds = getenv("TANDEM_TEST_LONG") ? 20 : 2, kills = 0, equal = 0;
    check_case("SIGKILL at random moments, %d times to the end: the same bytes", rounds);
    long most_records = 0;
    for (int i = 0; i < rounds || (most_records == 0 && i < 50); i++) { /* no kill may have been in time */
        rounds = max_of(rounds, i + 1);
        kills += kill_until_done(&most_records);
        equal += same_bytes("whole.gguf", "kill.gguf");
        unlink(path("kill.gguf"));
        unlink(path(".kill.gguf.journal")); /* where the last kill came behind the rename */
    }
    CHECK_INT(equal, rounds);
    CHECK_MSG(kills > 0 && most_records > 0, "%d kills, %ld records", kills, most_records);
}

static void test_no_space(void)
{
    check_case("a file system that takes no more");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = { 60000, 60000 };
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(quantize("in.gguf full.gguf q8_0"));
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK_INT(WEXITSTATUS(status), ERR_RUN);
    said("full.gguf");
    CHECK(!exists("full.gguf") && count_names(".full") == 0);
    RUN(0, "in.gguf full.gguf q8_0 --resume");
}

int main(void)
{
    if (!quantize_rig_open("quantize-resume"))
        return check_finish();
    test_stop();
    test_read_error();
    test_kill();
    test_no_space();
    quantize_rig_close();
    return check_finish();
}
