/* The GGUF reader on files: things that are no model, split sets, directories, files that change
 * while they are mapped. */
#include "tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/format/gguf_internal.h"
#include "src/format/gguf_write.h"
#include "tests/gguf_walk.h"

static char folder[] = "/tmp/tandem-gguf-XXXXXX";

static const char *in_folder(const char *name)
{
    static char ring[8][256];
    static int next;
    char *path = ring[next++ % 8];
    snprintf(path, sizeof ring[0], "%s/%s", folder, name);
    return path;
}

static void write_bytes(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(in_folder(name), "wb");
    if (!CHECK(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0))
        abort();
}

/* Opening fails as a bad file, in a line that names it and contains `word`, at once. */
static void refused_path(const char *path, const char *word)
{
    struct gguf g;
    struct error err = { 0 };
    double start = check_cpu_s();
    if (!CHECK_MSG(!gguf_open(&g, path, &err), "%s: accepted", path)) {
        gguf_close(&g);
        return;
    }
    CHECK_INT(err.code, ERR_FILE);
    CHECK_MSG(strstr(err.text, word) != NULL, "\"%s\", wanted \"%s\"", err.text, word);
    CHECK(strpbrk(err.text, "\n\x1b") == NULL);
    CHECK(check_cpu_s() - start < 1);
    CHECK(g.n_shards == 0 && g.arena.last == NULL);
}

static void refused(const char *name, const char *word)
{
    refused_path(in_folder(name), word);
}

/* A model of n tensors "t0" .. of 4096 bytes each, tensor i filled with i+1. */
static bool write_model(const char *name, int n_shards, int n_tensors, const char *arch)
{
    struct gguf_writer w = { 0 };
    struct error err = { 0 };
    const uint64_t ne[2] = { 64, 64 };
    if (n_shards > 1)
        gguf_writer_split(&w, n_shards, 0, 0);
    bool ok = gguf_writer_add_str(&w, "general.architecture", arch, &err);
    for (int i = 0; ok && i < n_tensors; i++) {
        char tensor[32];
        snprintf(tensor, sizeof tensor, "t%d", i);
        ok = gguf_writer_add_tensor(&w, tensor, TYPE_I8, 2, ne, &err);
    }
    ok = ok && gguf_writer_begin(&w, in_folder(name), &err);
    for (int i = 0; ok && i < n_tensors; i++) {
        uint8_t bytes[4096];
        memset(bytes, i + 1, sizeof bytes);
        ok = gguf_writer_data(&w, bytes, sizeof bytes, &err);
    }
    ok = ok && gguf_writer_finish(&w, &err);
    gguf_writer_release(&w);
    return CHECK_MSG(ok, "%s: %s", name, err.text);
}

static void opens(const char *name, int n_shards, uint64_t n_tensors)
{
    struct gguf g;
    struct error err = { 0 };
    if (!CHECK_MSG(gguf_open(&g, in_folder(name), &err), "%s", err.text))
        return;
    uint64_t found;
    gguf_walk(&g, &found);
    CHECK_INT(found, g.n_kv + g.n_tensors);
    CHECK_INT(g.n_shards, n_shards);
    CHECK_INT(g.n_tensors, n_tensors);
    CHECK_MSG(gguf_unchanged(&g, &err), "%s", err.text);
    for (uint64_t i = 0; i < n_tensors; i++)
        CHECK_INT(*(const uint8_t *)g.tensors[i].data, i + 1);
    for (int i = 0; i < g.n_shards; i++)
        CHECK(g.shards[i].fd > 2);
    gguf_close(&g);
}

/* ---- no model at all ---- */

static void test_kinds(void)
{
    check_case("no file, empty file, directory, devices");
    refused("missing.gguf", "No such file");
    refused("missing\n\x1b[31m.gguf", "missing\\x0a\\x1b[31m.gguf");
    refused_path("", "No such file");
    write_bytes("empty.gguf", "", 0);
    refused("empty.gguf", "empty; download incomplete?");
    refused_path("/dev/zero", "a character device");
    refused_path("/dev/null", "a character device");
    refused_path("/proc/self/status", "empty");

    check_case("FIFO and socket do not block");
    CHECK(mkfifo(in_folder("fifo"), 0600) == 0);
    refused("fifo", "a pipe");
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", in_folder("socket"));
    CHECK(s >= 0 && bind(s, (struct sockaddr *)&address, sizeof address) == 0);
    refused("socket", "socket");
    close(s);

    check_case("links: loop, dangling, good");
    CHECK(symlink("loop", in_folder("loop")) == 0);
    refused("loop", "symbolic links");
    CHECK(symlink("nowhere", in_folder("dangling.gguf")) == 0);
    refused("dangling.gguf", "No such file");
    write_model("plain.gguf", 1, 3, "tiny");
    CHECK(symlink("plain.gguf", in_folder("linked")) == 0);
    opens("linked", 1, 3);

    check_case("file without read permission");
    write_bytes("secret.gguf", "GGUF", 4);
    CHECK(chmod(in_folder("secret.gguf"), 0) == 0);
    if (geteuid() == 0)
        check_skip("root may read everything");
    else
        refused("secret.gguf", "Permission denied");
}

#define BYTES(text) text, sizeof text - 1

static void test_lookalikes(void)
{
    static const struct {
        const char *start;
        size_t n;
        const char *word;
    } files[] = {
        { BYTES("<!DOCTYPE html><html>"), "a web page" },
        { BYTES("<html><head></head></html>"), "a web page" },
        { BYTES("<?xml version=\"1.0\"?>"), "XML" },
        { BYTES("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull" },
        { BYTES("PK\3\4\24\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "zip" },
        { BYTES("lmgg\1\0\0\0"), "GGML" },
        { BYTES("tjgg\3\0\0\0"), "GGJT" },
        { BYTES("fmgg\1\0\0\0"), "GGMF" },
        { BYTES("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "zeros" },
        { BYTES("\x40\1\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\"}}"), "safetensors" },
        { BYTES("{\"error\":\"not found\"}"), "JSON" },
        { BYTES("Entry not found"), "expected a GGUF file" },
        { BYTES("GGUF\3\0\0\0"), "at least 24; download incomplete?" },
        { BYTES("GGU"), "3 bytes" },
        { BYTES("completely different bytes"), "expected \"GGUF\"" },
        { BYTES("GGUF\1\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0"), "version 1 is too old" },
        { BYTES("GGUF\0\0\0\3\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1"), "big-endian" },
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        check_case("lookalike: %s", files[i].word);
        write_bytes("what.gguf", files[i].start, files[i].n);
        refused("what.gguf", files[i].word);
    }
    check_case("unfinished file of our writer");
    struct gguf_writer w = { 0 };
    struct error err = { 0 };
    const uint64_t ne[1] = { 32 };
    CHECK(gguf_writer_add_tensor(&w, "t", TYPE_F32, 1, ne, &err) &&
          gguf_writer_begin(&w, in_folder("half.gguf"), &err));
    refused(".half.gguf.part", "unfinished");
    gguf_writer_release(&w);
}

static void test_truncated(void)
{
    check_case("truncated data says how much is missing");
    CHECK(truncate(in_folder("plain.gguf"), 100) == 0);
    refused("plain.gguf", "incomplete");
    write_model("plain.gguf", 1, 3, "tiny");
    struct stat st;
    CHECK(stat(in_folder("plain.gguf"), &st) == 0);
    for (off_t missing = 1; missing < 3 * 4096; missing += 1000) {
        char word[64];
        CHECK(truncate(in_folder("plain.gguf"), st.st_size - missing) == 0);
        snprintf(word, sizeof word, "ends %lld bytes too early", (long long)missing);
        refused("plain.gguf", word);
    }
    write_model("plain.gguf", 1, 3, "tiny");
    check_case("a sparse terabyte is opened, not read");
    write_model("huge.gguf", 1, 1, "tiny");
    if (truncate(in_folder("huge.gguf"), (off_t)1 << 40) != 0)
        check_skip("this file system has no files of that size: %s", strerror(errno));
    else
        opens("huge.gguf", 1, 1);
    unlink(in_folder("huge.gguf"));
}

/* ---- sets ---- */

static void move(const char *from, const char *to)
{
    char a[256], b[256];
    snprintf(a, sizeof a, "%s", in_folder(from));
    snprintf(b, sizeof b, "%s", in_folder(to));
    CHECK(rename(a, b) == 0);
}

#define SET(n) "set-0000" #n "-of-00003.gguf"

static void test_sets(void)
{
    check_case("any file of a set opens all of it");
    write_model("set.gguf", 3, 7, "tiny");
    opens(SET(1), 3, 7);
    opens(SET(2), 3, 7);
    opens(SET(3), 3, 7);

    check_case("a missing file is named");
    for (int i = 1; i <= 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "set-%05d-of-00003.gguf", i);
        move(name, "away");
        refused(i == 1 ? SET(2) : SET(1), name);
        refused(i == 1 ? SET(2) : SET(1), "of 3 of the set");
        move("away", name);
    }
    check_case("an empty file of a set");
    move(SET(2), "away");
    write_bytes(SET(2), "", 0);
    refused(SET(1), SET(2));
    move("away", SET(2));

    check_case("G-36 two files swapped");
    move(SET(2), "away");
    move(SET(3), SET(2));
    move("away", SET(3));
    refused(SET(1), "split.no is 2, expected 1");
    move(SET(2), "away");
    move(SET(3), SET(2));
    move("away", SET(3));
    opens(SET(1), 3, 7);

    check_case("G-05 the same file twice");
    move(SET(3), "away");
    char from[256], to[256];
    snprintf(from, sizeof from, "%s", in_folder(SET(2)));
    snprintf(to, sizeof to, "%s", in_folder(SET(3)));
    CHECK(link(from, to) == 0);
    refused(SET(1), "the same file as");
    unlink(to);
    move("away", SET(3));

    check_case("G-36 renamed to another count, or to no set at all");
    move(SET(1), "set-00001-of-00002.gguf");
    write_bytes("set-00002-of-00002.gguf", "GGUF", 4);
    refused("set-00001-of-00002.gguf", "split.count is 3, expected 2");
    unlink(in_folder("set-00002-of-00002.gguf"));
    move("set-00001-of-00002.gguf", "alone.gguf");
    refused("alone.gguf", "-00001-of-00003.gguf");
    move("alone.gguf", SET(1));

    check_case("G-36 a file of another model");
    write_model("other.gguf", 3, 5, "tiny");
    move(SET(3), "away");
    move("other-00003-of-00003.gguf", SET(3));
    refused(SET(1), "G-3"); /* a tensor twice, or a wrong count */
    unlink(in_folder(SET(3)));
    move("away", SET(3));
    opens(SET(1), 3, 7);

    check_case("G-36 limit of the number of files");
    write_bytes("many-00001-of-09999.gguf", "GGUF", 4);
    refused("many-00001-of-09999.gguf", "at least 24");
    write_bytes("many-00001-of-10000.gguf", "GGUF", 4);
    refused("many-00001-of-10000.gguf", "at most 9999");
    write_bytes("many-00000-of-00002.gguf", "GGUF", 4);
    refused("many-00000-of-00002.gguf", "at least 24");
}

/* An incomplete set: the named count of tensors is wrong. */
static void test_lying_count(void)
{
    check_case("G-36 split.tensors.count lies");
    size_t n = 0;
    char *bytes = check_read_file(in_folder(SET(1)), &n);
    char *at = bytes ? memmem(bytes, n, "split.tensors.count", 19) : NULL;
    if (CHECK(at)) {
        at[19 + 4]++;
        write_bytes(SET(1), bytes, n);
        refused(SET(1), "split.tensors.count is 8");
        at[19 + 4]--;
        write_bytes(SET(1), bytes, n);
        opens(SET(1), 3, 7);
    }
    free(bytes);
}

static void test_directories(void)
{
    check_case("a directory with one model, with none, with several");
    CHECK(mkdir(in_folder("dir"), 0700) == 0);
    refused("dir", "without a .gguf file");
    write_model("dir/m.gguf", 3, 4, "tiny");
    opens("dir", 3, 4);
    opens("dir/", 3, 4);
    write_bytes("dir/README.md", "x", 1);
    write_bytes("dir/.hidden.gguf", "x", 1);
    opens("dir", 3, 4);
    move("dir/m-00001-of-00003.gguf", "away");
    refused("dir", "m-00001-of-00003.gguf");
    move("away", "dir/m-00001-of-00003.gguf");
    write_model("dir/n.gguf", 1, 1, "tiny");
    refused("dir", "several models");
}

/* ---- files that change ---- */

static void test_shrinks(void)
{
    check_case("G-51 a file cut short under the map is reported, not a crash");
    write_model("shrink.gguf", 1, 8, "tiny");
    struct gguf g;
    struct error err = { 0 };
    int shard = -1;
    uint64_t offset = 0;
    if (!CHECK_MSG(gguf_open(&g, in_folder("shrink.gguf"), &err), "%s", err.text))
        return;
    CHECK(!gguf_lost(&g, &shard, &offset));
    CHECK(truncate(in_folder("shrink.gguf"), 4096) == 0);
    const uint8_t *last = g.tensors[7].data;
    CHECK_INT(last[0], 0); /* a zero page took its place */
    CHECK(gguf_lost(&g, &shard, &offset));
    CHECK_INT(shard, 0);
    CHECK_INT(offset, g.tensors[7].file_offset / 4096 * 4096);
    uint64_t found;
    gguf_walk(&g, &found);
    CHECK(!gguf_unchanged(&g, &err) && err.code == ERR_RUN);
    CHECK_MSG(strstr(err.text, "changed") != NULL, "%s", err.text);
    gguf_close(&g);

    check_case("G-51 another open file is not affected");
    opens("plain.gguf", 1, 3);

    check_case("G-05 a file overwritten in place is noticed");
    write_model("touch.gguf", 1, 1, "tiny");
    error_clear(&err);
    if (!CHECK_MSG(gguf_open(&g, in_folder("touch.gguf"), &err), "%s", err.text))
        return;
    struct timespec times[2] = { { 0, UTIME_NOW }, { 5, 0 } };
    CHECK(utimensat(AT_FDCWD, in_folder("touch.gguf"), times, 0) == 0);
    CHECK(!gguf_unchanged(&g, &err) && err.code == ERR_RUN);
    gguf_close(&g);

    check_case("a file deleted while mapped stays usable");
    if (!CHECK(gguf_open(&g, in_folder("touch.gguf"), NULL)))
        return;
    CHECK(unlink(in_folder("touch.gguf")) == 0);
    CHECK_INT(*(const uint8_t *)g.tensors[0].data, 1);
    gguf_close(&g);
}

/* SIGBUS at an address that is no model's must still end the program. */
static void test_foreign_sigbus(void)
{
    check_case("G-51 SIGBUS elsewhere still kills");
    write_bytes("foreign", folder, 10);
    pid_t child = fork();
    if (child == 0) {
        struct gguf g;
        int fd = open(in_folder("foreign"), O_RDWR);
        if (!gguf_open(&g, in_folder("plain.gguf"), NULL) || fd < 0)
            _exit(3);
        volatile char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED || ftruncate(fd, 0) != 0)
            _exit(4);
        _exit(map[0]); /* not reached */
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_MSG(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS, "status %x", status);
}

static void test_read_whole(void)
{
    check_case("G-54 a file that cannot be mapped is read");
    struct error err = { 0 };
    size_t n = 0;
    char *wanted = check_read_file(in_folder("plain.gguf"), &n);
    int fd = open(in_folder("plain.gguf"), O_RDONLY);
    void *bytes = gguf_file_read_whole(fd, "plain", n, &err);
    CHECK_MSG(bytes && memcmp(bytes, wanted, n) == 0, "%s", err.text);
    if (bytes)
        munmap(bytes, n);
    CHECK(!gguf_file_read_whole(fd, "plain", n + 1, &err) && err.code == ERR_FILE);
    CHECK(strstr(err.text, "shorter") != NULL);
    error_clear(&err);
    CHECK(!gguf_file_read_whole(fd, "plain", 1ull << 60, &err) && err.code == ERR_FIT);
    close(fd);
    free(wanted);
}

/* A program started without standard streams must not get its model on descriptor 0, 1 or 2. */
static void test_low_descriptors(void)
{
    check_case("a model never gets descriptor 0, 1 or 2");
    pid_t child = fork();
    if (child == 0) {
        struct gguf g;
        close(0);
        close(1);
        close(2);
        if (!gguf_open(&g, in_folder("plain.gguf"), NULL))
            _exit(2);
        _exit(g.shards[0].fd > 2 ? 0 : 1);
    }
    int status = 1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    test_kinds();
    test_lookalikes();
    test_truncated();
    test_sets();
    test_lying_count();
    test_directories();
    test_shrinks();
    test_foreign_sigbus();
    test_read_whole();
    test_low_descriptors();
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        return 1;
    return check_finish();
}
