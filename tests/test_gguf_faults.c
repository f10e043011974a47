/* Reading and writing GGUF while the system fails: this program brings its own versions of the
 * calls that touch files, and lets the n-th of them fail, stop short or be interrupted. */
#include "tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/format/gguf_internal.h"
#include "src/format/gguf_write.h"
#include "tests/gguf_walk.h"

/* ---- the calls ---- */

enum call { CALL_OPEN, CALL_FSTAT, CALL_MMAP, CALL_PREAD, CALL_PWRITE, CALL_FSYNC, CALL_FALLOCATE,
            CALL_FTRUNCATE, CALL_RENAME, CALL_FLOCK, N_CALLS };
static const char *const call_names[] = { "open", "fstat", "mmap", "pread", "pwrite", "fsync",
                                          "fallocate", "ftruncate", "rename", "flock" };

static struct {
    bool on;
    enum call call;
    int countdown; /* the call that makes it zero fails */
    int error;     /* 0: a short count instead */
    int n_hits;
} fault;

static bool faulty(enum call call)
{
    if (!fault.on || call != fault.call || fault.countdown-- != 0)
        return false;
    fault.n_hits++;
    errno = fault.error;
    return true;
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    int mode = va_arg(args, int);
    va_end(args);
    return faulty(CALL_OPEN) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int fstat(int fd, struct stat *st)
{
    return faulty(CALL_FSTAT) ? -1 : fstatat(fd, "", st, AT_EMPTY_PATH);
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && faulty(CALL_MMAP))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}

ssize_t pread(int fd, void *to, size_t n, off_t offset)
{
    if (faulty(CALL_PREAD)) {
        if (fault.error)
            return -1;
        n = n > 7 ? 7 : n;
    }
    return syscall(SYS_pread64, fd, to, n, offset);
}

ssize_t pwrite(int fd, const void *from, size_t n, off_t offset)
{
    if (faulty(CALL_PWRITE)) {
        if (fault.error)
            return -1;
        n = n > 7 ? 7 : n;
    }
    return syscall(SYS_pwrite64, fd, from, n, offset);
}

int fsync(int fd)
{
    return faulty(CALL_FSYNC) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fallocate(int fd, int mode, off_t offset, off_t n)
{
    return faulty(CALL_FALLOCATE) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, n);
}

int ftruncate(int fd, off_t n)
{
    return faulty(CALL_FTRUNCATE) ? -1 : (int)syscall(SYS_ftruncate, fd, n);
}

int rename(const char *from, const char *to)
{
    return faulty(CALL_RENAME) ? -1 : renameat(AT_FDCWD, from, AT_FDCWD, to);
}

int flock(int fd, int how)
{
    return faulty(CALL_FLOCK) ? -1 : (int)syscall(SYS_flock, fd, how);
}

/* Run with the fault at call n; true when the fault was met. */
static void arm(enum call call, int n, int error)
{
    fault.on = true;
    fault.call = call;
    fault.countdown = n;
    fault.error = error;
    fault.n_hits = 0;
}

static bool disarm(void)
{
    fault.on = false;
    return fault.n_hits > 0;
}

/* ---- what is done under faults ---- */

static char folder[] = "/tmp/tandem-faults-XXXXXX";
static char target[128], first_shard[128], second_shard[128], hidden_shard[2][128];

static bool write_set(struct error *err)
{
    struct gguf_writer w = { 0 };
    const uint64_t ne[2] = { 32, 100 };
    static float data[3200];
    for (int i = 0; i < 3200; i++)
        data[i] = (float)i;
    gguf_writer_split(&w, 2, 0, 0);
    bool ok = gguf_writer_add_str(&w, "general.architecture", "tiny", err) &&
              gguf_writer_add_tensor(&w, "a", TYPE_F32, 2, ne, err) &&
              gguf_writer_add_tensor(&w, "b", TYPE_F32, 2, ne, err) &&
              gguf_writer_begin(&w, target, err) &&
              gguf_writer_data(&w, data, sizeof data, err) &&
              gguf_writer_data(&w, data, sizeof data, err) && gguf_writer_finish(&w, err);
    gguf_writer_release(&w);
    return ok;
}

static bool read_set(struct error *err)
{
    struct gguf g;
    if (!gguf_open(&g, first_shard, err))
        return false;
    uint64_t found;
    gguf_walk(&g, &found);
    CHECK_INT(found, g.n_kv + g.n_tensors);
    for (uint64_t t = 0; t < g.n_tensors; t++) {
        const float *data = g.tensors[t].data;
        for (int i = 0; i < 3200; i++)
            if (!CHECK(data[i] == (float)i))
                break;
    }
    gguf_close(&g);
    return true;
}

static int n_files(void)
{
    char command[160];
    int n = -1;
    snprintf(command, sizeof command, "ls -A %s | wc -l", folder);
    FILE *p = popen(command, "r");
    if (!p || fscanf(p, "%d", &n) != 1)
        n = -1;
    if (p)
        pclose(p);
    return n;
}

static void test_writer(void)
{
    static const struct {
        enum call call;
        int error;
        bool harmless; /* the run ends well all the same */
    } faults[] = {
        { CALL_OPEN, EACCES, false },
        { CALL_MMAP, ENODEV, true },
        { CALL_PWRITE, ENOSPC, false },
        { CALL_PWRITE, EIO, false },
        { CALL_PWRITE, EINTR, true },
        { CALL_PWRITE, 0, true },
        { CALL_FSYNC, EIO, false },
        { CALL_FALLOCATE, ENOSPC, false },
        { CALL_FALLOCATE, EINTR, true },
        { CALL_FALLOCATE, EOPNOTSUPP, true },
        { CALL_FTRUNCATE, EIO, false },
        { CALL_RENAME, EACCES, false },
        { CALL_FLOCK, EWOULDBLOCK, false },
    };
    for (size_t k = 0; k < sizeof faults / sizeof *faults; k++) {
        check_case("writing: %s fails with %d", call_names[faults[k].call], faults[k].error);
        bool met = true;
        int n_met = 0;
        for (int n = 0; met && n < 100; n++) {
            struct error err = { 0 };
            unlink(first_shard);
            unlink(second_shard);
            unlink(hidden_shard[0]);
            unlink(hidden_shard[1]);
            arm(faults[k].call, n, faults[k].error);
            bool ok = write_set(&err);
            met = disarm();
            n_met += met;
            CHECK_MSG(ok == (!met || faults[k].harmless), "call %d: %s", n, err.text);
            if (ok) {
                CHECK_INT(n_files(), 2);
                CHECK_MSG(read_set(&err), "%s", err.text);
            } else {
                CHECK(err.code == ERR_RUN || err.code == ERR_FILE);
                CHECK_MSG(strstr(err.text, folder) != NULL, "%s", err.text);
                bool first = access(first_shard, F_OK) == 0;
                bool second = access(second_shard, F_OK) == 0;
                /* shard 1 only with all the others; nothing hidden is left behind, but a file that
                 * is locked belongs to somebody else */
                CHECK_INT(n_files(), first + second + (faults[k].call == CALL_FLOCK));
                CHECK(!first || second);
            }
        }
        CHECK(n_met > 0 && n_met < 100);
    }
}

static void test_reader(void)
{
    static const struct {
        enum call call;
        int error;
        bool harmless;
    } faults[] = {
        { CALL_OPEN, EMFILE, false },
        { CALL_FSTAT, EIO, false },
        { CALL_MMAP, ENODEV, true }, /* read instead */
    };
    struct error err = { 0 };
    CHECK_MSG(write_set(&err), "%s", err.text);
    for (size_t k = 0; k < sizeof faults / sizeof *faults; k++) {
        check_case("reading: %s fails with %d", call_names[faults[k].call], faults[k].error);
        for (int n = 0; n < 2; n++) {
            error_clear(&err);
            arm(faults[k].call, n, faults[k].error);
            bool ok = read_set(&err);
            CHECK(disarm());
            CHECK_MSG(ok == faults[k].harmless, "%s", err.text);
            CHECK(ok || err.code == ERR_FILE);
        }
    }
}

/* A run with fault and one more: mmap is refused, and then reading has its own trouble. */
static void test_fallback(void)
{
    struct error err = { 0 };
    static const int errors[] = { 0, EINTR, EIO };
    for (int k = 0; k < 3; k++) {
        check_case("mapping refused, then pread: %d", errors[k]);
        int fd = open(first_shard, O_RDONLY);
        struct stat st = { 0 };
        CHECK(fd >= 0 && fstat(fd, &st) == 0);
        uint8_t *mapped = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        error_clear(&err);
        arm(CALL_PREAD, 0, errors[k]);
        uint8_t *bytes = gguf_file_read_whole(fd, first_shard, (uint64_t)st.st_size, &err);
        CHECK(disarm());
        if (errors[k] == EIO) {
            CHECK(!bytes && err.code == ERR_FILE && strstr(err.text, "G-54"));
        } else if (CHECK_MSG(bytes != NULL, "%s", err.text)) {
            CHECK(memcmp(bytes, mapped, (size_t)st.st_size) == 0);
            munmap(bytes, (size_t)st.st_size);
        }
        munmap(mapped, (size_t)st.st_size);
        close(fd);
    }
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    snprintf(target, sizeof target, "%s/m.gguf", folder);
    snprintf(first_shard, sizeof first_shard, "%s/m-00001-of-00002.gguf", folder);
    snprintf(second_shard, sizeof second_shard, "%s/m-00002-of-00002.gguf", folder);
    for (int i = 0; i < 2; i++)
        snprintf(hidden_shard[i], sizeof hidden_shard[i], "%s/.m-%05d-of-00002.gguf.part", folder,
                 i + 1);
    test_writer();
    test_reader();
    test_fallback();
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        return 1;
    return check_finish();
}
