/* Kept conversations: records that survive damage, the tree with its branches, names, locks. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/export.h"
#include "src/cli/store.h"
#include "tests/check.h"

static char home[256];

static bool ask(struct store *s, int64_t parent, const char *question, const char *answer)
{
    struct error err = { 0 };
    int64_t id = 0;
    return CHECK_MSG(store_ask(s, parent, str_of(question), &id, &err), "%s", err.text) &&
           (!answer || CHECK_MSG(store_answer(s, id, str_of(answer), str_of("hm"), 3, &err), "%s",
                                 err.text));
}

/* The questions of a branch, one letter each. */
static const char *questions(const struct store *s, const char *branch)
{
    static char text[64];
    int64_t ids[64];
    const struct branch *b = store_find_branch(s, branch);
    int64_t n = b ? store_path(s, b, ids) : 0;
    for (int64_t i = 0; i < n; i++)
        text[i] = store_node(s, ids[i])->question.data[0];
    text[n] = 0;
    return text;
}

/* main: a b c, other: a b d e (a left out), the current one main, c and then x unanswered. */
static void fill(struct store *s)
{
    struct error err = { 0 };
    CHECK(store_set(s, SET_SYSTEM, str_of("be\nbrief"), &err));
    ask(s, 0, "a?", "A");
    ask(s, 1, "b?", "B");
    ask(s, 2, "c?", "C");
    CHECK(store_branch(s, "other", 2, 1, &err));
    ask(s, 2, "d?", "D");
    ask(s, 4, "e?", "");
    CHECK(store_branch(s, "main", 3, 0, &err));
    ask(s, 3, "x?", NULL);
}

static void check_filled(const struct store *s)
{
    CHECK_STR(questions(s, "main"), "abc");
    CHECK_STR(questions(s, "other"), "bde");
    CHECK_STR(store_current(s)->name, "main");
    CHECK_INT(store_current(s)->tip, 6);
    CHECK(!store_node(s, 6)->answered);
    CHECK(store_node(s, 5)->answered && store_node(s, 5)->answer.len == 0);
    CHECK_STR(store_node(s, 4)->answer.data, "D");
    CHECK_STR(store_node(s, 4)->thinking.data, "hm");
    CHECK_INT(store_node(s, 4)->n_tokens, 3);
    CHECK_INT(store_depth(s, 5), 4);
    CHECK_STR(s->settings[SET_SYSTEM].data, "be\nbrief");
}

static void test_tree(void)
{
    struct store s = { 0 }, t;
    struct error err = { 0 };
    check_case("a tree in memory, then in a folder, then read again");
    CHECK_STR(store_current(&s)->name, "main");
    CHECK_INT(store_path(&s, store_current(&s), NULL), 0);
    fill(&s);
    check_filled(&s);
    CHECK_MSG(store_create(&s, "one", &err), "%s", err.text);
    check_filled(&s);
    if (CHECK(store_look(&t, "one", &err)))
        check_filled(&t);
    CHECK_INT(t.n_lost, 0);
    store_close(&t);
    CHECK(store_answer(&s, 6, str_of("X"), str_of(""), 1, &err));
    store_close(&s);
    if (CHECK_MSG(store_open(&s, "one", &err), "%s", err.text)) {
        CHECK_STR(questions(&s, "main"), "abcx");
        CHECK_INT(s.n_nodes, 6);
    }

    check_case("everything is private");
    struct stat st;
    CHECK(stat(s.folder, &st) == 0 && (st.st_mode & 0777) == 0700);
    CHECK(stat(s.path, &st) == 0 && (st.st_mode & 0777) == 0600);

    check_case("a second program is told who has it");
    CHECK(!store_open(&t, "one", &err));
    CHECK_INT(err.code, ERR_USAGE);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "process %ld", (long)getpid());
    CHECK_MSG(strstr(err.text, wanted), "%s", err.text);
    error_clear(&err);

    check_case("renamed, and removed");
    CHECK(store_rename(&s, "two", &err));
    CHECK(!store_exists("one") && store_exists("two"));
    ask(&s, 6, "y?", "Y");
    store_close(&s);
    if (CHECK(store_open(&s, "two", &err)))
        CHECK_STR(questions(&s, "main"), "abcxy");
    CHECK(store_remove(&s, &err));
    CHECK(!store_exists("two"));
    CHECK(!store_open(&s, "two", &err));
    CHECK_INT(err.code, ERR_FILE);
}

static void test_full_disk(void)
{
    struct store s = { 0 };
    struct error err = { 0 };
    struct rlimit old, none;
    check_case("where nothing can be written no half session takes the name away");
    ask(&s, 0, "a?", "A");
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    none = old;
    none.rlim_cur = 16; /* less than a head and a question take */
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
    bool made = store_create(&s, "full", &err);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    signal(SIGXFSZ, SIG_DFL);
    CHECK(!made && err.code == ERR_RUN);
    CHECK(!store_exists("full"));
    CHECK_STR(questions(&s, "main"), "a"); /* what was said is still there */
    store_close(&s);
}

static void test_names(void)
{
    static const char *const good[] = { "a", "parser-2", "über", "a.b", "2026-11-23-1" };
    static const char *const bad[] = { "", ".", "..", ".hidden", "-x", "a/b", "a b", "a\nb",
        "0123456789012345678901234567890123456789012345678901234567890123456789" };
    struct error err = { 0 };
    struct store s = { 0 };
    check_case("names");
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        CHECK(store_check_name(good[i], &err));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        error_clear(&err);
        CHECK(!store_check_name(bad[i], &err));
        CHECK_INT(err.code, ERR_USAGE);
        CHECK(!store_create(&s, bad[i], &err));
        CHECK(!store_exists(bad[i]));
    }
    error_clear(&err);
    CHECK(store_create(&s, "twice", &err));
    store_close(&s);
    CHECK(!store_create(&s, "twice", &err));
    CHECK_INT(err.code, ERR_USAGE);
    error_clear(&err);

    check_case("a name by date; names by their beginning; the latest");
    char name[STORE_NAME];
    CHECK(store_create(&s, NULL, &err));
    CHECK(s.name[4] == '-' && strcmp(s.name + 10, "-1") == 0);
    store_close(&s);
    CHECK(store_create(&s, NULL, &err));
    CHECK_STR(s.name + 10, "-2");
    ask(&s, 0, "first line \xc3\xa9\nsecond", "A");
    struct timespec later[2] = { { .tv_sec = 4000000000 }, { .tv_sec = 4000000000 } };
    CHECK(utimensat(AT_FDCWD, s.path, later, 0) == 0);
    store_close(&s);
    CHECK(store_latest(name, &err) && strcmp(name + 10, "-2") == 0);
    CHECK(store_match("twi", name, &err));
    CHECK_STR(name, "twice");
    CHECK(!store_match("2", name, &err));
    CHECK_INT(err.code, ERR_USAGE);
    error_clear(&err);
    CHECK(!store_match("nothing", name, &err));
    CHECK_INT(err.code, ERR_FILE);

    check_case("a list with titles");
    struct store_summary *list;
    int n;
    error_clear(&err);
    if (CHECK(store_list(&list, &n, &err)) && CHECK(n == 3)) {
        CHECK_STR(list[0].title, "first line \xc3\xa9");
        CHECK_INT(list[0].n_exchanges, 1);
        CHECK_INT(list[0].n_branches, 1);
        CHECK(list[0].talk_bytes > 0 && list[0].cache_bytes == 0);
    }
    mem_free(list);
}

static void put_talk(const struct store *s, const char *bytes, size_t n)
{
    int fd = open(s->path, O_WRONLY | O_TRUNC);
    CHECK(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
    close(fd);
}

/* Whatever it reads, it must be a tree. */
static void check_sane(const struct store *s)
{
    for (int64_t id = 1; id <= s->n_nodes; id++)
        CHECK(!store_node(s, id) || store_node(s, id)->parent < id);
    for (int i = 0; i < s->n_branches; i++)
        CHECK(store_path(s, &s->branches[i], NULL) <= s->n_nodes);
}

static void test_damage(void)
{
    struct store s = { 0 }, t;
    struct error err = { 0 };
    check_case("a talk to damage");
    fill(&s);
    if (!CHECK(store_create(&s, "damaged", &err)))
        return;
    size_t n = 0;
    char *bytes = check_read_file(s.path, &n);
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s", s.path);

    check_case("cut anywhere, all whole records before remain");
    int64_t most = 0;
    for (size_t cut = 16; bytes && cut <= n; cut++) {
        put_talk(&s, bytes, cut);
        if (!CHECK(store_look(&t, "damaged", &err)))
            break;
        CHECK(t.n_nodes >= most);
        most = t.n_nodes;
        check_sane(&t);
        CHECK(cut < n || t.n_lost == 0);
        store_close(&t);
    }
    CHECK_INT(most, 6);

    check_case("any bit flipped: one record is lost at most, and the tree holds together");
    for (size_t bit = 0; bytes && bit < 8 * n; bit += 3) {
        bytes[bit / 8] ^= (char)(1 << bit % 8);
        put_talk(&s, bytes, n);
        if (store_look(&t, "damaged", &err)) {
            int found = 0;
            for (int64_t id = 1; id <= t.n_nodes; id++)
                found += store_node(&t, id) != NULL;
            CHECK(found >= 5);
            check_sane(&t);
            store_close(&t);
        } else { /* the version */
            CHECK(bit / 8 >= 8 && bit / 8 < 12);
            CHECK_INT(err.code, ERR_FILE);
            error_clear(&err);
        }
        bytes[bit / 8] ^= (char)(1 << bit % 8);
    }

    check_case("a lost node's children go to the one before");
    char *b = bytes ? memmem(bytes, n, "b?", 2) : NULL;
    if (CHECK(b)) {
        *b = 'z';
        put_talk(&s, bytes, n);
        if (CHECK(store_look(&t, "damaged", &err))) {
            CHECK(t.n_lost > 0);
            CHECK(!store_node(&t, 2));
            CHECK_STR(questions(&t, "main"), "ac");
            CHECK_STR(questions(&t, "other"), "de");
            store_close(&t);
        }
        *b = 'b';
    }

    check_case("what is written behind a torn end is read");
    store_close(&s);
    if (CHECK(store_open(&s, "damaged", &err))) {
        put_talk(&s, bytes, n - 3);
        ask(&s, 3, "w?", "W");
        store_close(&s);
        if (CHECK(store_look(&t, "damaged", &err)))
            CHECK(strchr(questions(&t, store_current(&t)->name), 'w'));
        store_close(&t);
    }

    check_case("a file full of marks is read once, not from each of them");
    static char marks[4 << 20];
    for (uint32_t at = 0; at < sizeof marks; at += 16) {
        uint32_t rest = (uint32_t)sizeof marks - at - 16;
        memcpy(marks + at, "rec:NODE", 8);
        memcpy(marks + at + 8, &rest, 4);
    }
    if (CHECK(store_open(&s, "damaged", &err))) {
        put_talk(&s, marks, sizeof marks);
        CHECK(!store_look(&t, "damaged", &err));
        CHECK_INT(err.code, ERR_FILE);
        error_clear(&err);
        put_talk(&s, bytes, n);
        store_close(&s);
    }

    check_case("another file, an empty one");
    if (CHECK(store_open(&s, "damaged", &err))) {
        put_talk(&s, "something else entirely", 23);
        CHECK(!store_look(&t, "damaged", &err));
        CHECK_INT(err.code, ERR_FILE);
        error_clear(&err);
        put_talk(&s, "", 0);
        CHECK(!store_look(&t, "damaged", &err));
        store_close(&s);
    }
    free(bytes);
}

static void test_export(void)
{
    struct store s = { 0 };
    struct buf text = { 0 };
    check_case("Markdown and JSON");
    fill(&s);
    export_markdown(&text, &s, store_find_branch(&s, "other"));
    CHECK(!strstr(text.data, "a?"));
    CHECK(strstr(text.data, "## System\n\nbe\nbrief\n\n## Question\n\nb?\n\n## Answer\n\nB\n"));
    buf_release(&text);
    if (js_available(NULL)) {
        struct json *j = export_json(&s);
        CHECK_INT(js_count(js_get(j, "messages")), 6);
        CHECK_INT(js_count(js_get(j, "branches")), 2);
        struct str answer = { "", 0 };
        js_as_text(js_get(js_at(js_get(j, "messages"), 5), "content"), &answer);
        CHECK(str_is(answer, "C"));
        js_free(j);
    }
    store_close(&s);
}

int main(void)
{
    char command[300];
    const char *b = getenv("B");
    snprintf(home, sizeof home, "%s/tests/store.%d", b ? b : "build", (int)getpid());
    char *whole = mkdir(home, 0700) == 0 ? realpath(home, NULL) : NULL;
    check_case("a home");
    if (CHECK(whole)) {
        setenv("XDG_STATE_HOME", whole, 1);
        test_tree();
        test_full_disk();
    test_names();
        test_damage();
        test_export();
        snprintf(command, sizeof command, "rm -rf '%s'", home);
        CHECK(system(command) == 0);
    }
    free(whole);
    return check_finish();
}
