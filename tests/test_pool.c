/* The thread pool and the search for usable processors. */
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/cpus.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/pool.h"
#include "tests/check.h"

/* Stands before the C library's: creation number `fail_create_at` (0: the next) and later fail. */
static int fail_create_at = -1;

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    if (fail_create_at == 0)
        return 11; /* EAGAIN */
    if (fail_create_at > 0)
        fail_create_at--;
    return real(thread, attr, start, arg);
}

static const int thread_counts[] = { 1, 2, 3, 4, 8, 64 };
#define N_COUNTS 6

static struct pool *open_pool(int n)
{
    struct error err = { 0 };
    struct pool *p = NULL;
    CHECK_MSG(pool_open(&p, n, &err), "%s", err.text);
    return p;
}

static void test_share(void)
{
    check_case("shares cover everything once, cut at the grain, of nearly equal size");
    for (int round = 0; round < 2000; round++) {
        int64_t n = (int64_t)(check_random() % 1000), grain = 1 + (int64_t)(check_random() % 40);
        int workers = 1 + (int)(check_random() % 70);
        int64_t at = 0, smallest = INT64_MAX, largest = 0;
        for (int w = 0; w < workers; w++) {
            int64_t begin, end;
            pool_share(n, grain, w, workers, &begin, &end);
            CHECK_INT(begin, at);
            CHECK(end >= begin && (end % grain == 0 || end == n));
            int64_t pieces = (end - begin + grain - 1) / grain;
            smallest = pieces < smallest ? pieces : smallest;
            largest = pieces > largest ? pieces : largest;
            at = end;
        }
        CHECK_INT(at, n);
        CHECK(largest - smallest <= 1);
    }
}

struct counted {
    int hits[1000];
    int owner[1000];
    int n_workers;
};

static void count_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    struct counted *c = ctx;
    for (int64_t i = begin; i < end; i++) {
        c->hits[i]++; /* plain memory: only its worker may touch it */
        c->owner[i] = worker;
    }
}

static void test_run(void)
{
    for (int i = 0; i < N_COUNTS; i++) {
        int n_threads = thread_counts[i];
        check_case("%d threads: each item once, always the same worker", n_threads);
        struct pool *p = open_pool(n_threads);
        CHECK_INT(pool_threads(p), n_threads);
        struct counted *c = calloc(1, sizeof *c);
        int rounds = n_threads > 8 ? 20 : 300;
        for (int round = 0; round < rounds; round++)
            pool_run(p, count_job, c, 1000, 16);
        for (int k = 0; k < 1000; k++) {
            CHECK_INT(c->hits[k], rounds);
            int64_t begin, end;
            pool_share(1000, 16, c->owner[k], n_threads, &begin, &end);
            CHECK(k >= begin && k < end);
        }
        memset(c, 0, sizeof *c);
        pool_run(p, count_job, c, 0, 1);
        pool_run(p, count_job, c, 1, 8);
        pool_run(p, count_job, c, 3, 0); /* a grain below 1 counts as 1 */
        CHECK_INT(c->hits[0], 2);
        CHECK_INT(c->hits[2], 1);
        CHECK_INT(c->hits[3], 0);
        free(c);
        pool_close(p);
    }
}

/* A wave: in each phase a worker reads what its neighbours wrote in the phase before. */
struct wave {
    struct pool *pool;
    int n_phases;
    int64_t cell[2][64];
    atomic_int wrong;
};

static void wave_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    struct wave *w = ctx;
    if (begin != worker)
        atomic_fetch_add(&w->wrong, 1);
    for (int phase = 0; phase < w->n_phases; phase++) {
        const int64_t *from = w->cell[phase % 2];
        int64_t sum = 0;
        for (int i = 0; i < end; i++)
            sum += from[i];
        w->cell[(phase + 1) % 2][worker] = sum / end + 1;
        pool_barrier(w->pool, worker);
    }
}

static void test_barrier(void)
{
    for (int i = 0; i < N_COUNTS; i++) {
        int n_threads = thread_counts[i];
        check_case("%d threads: barriers separate the phases of a team job", n_threads);
        struct wave *w = calloc(1, sizeof *w);
        w->pool = open_pool(n_threads);
        w->n_phases = n_threads > 8 ? 21 : 501;
        for (int round = 0; round < 3; round++) {
            memset(w->cell, 0, sizeof w->cell);
            pool_run_team(w->pool, wave_job, w);
            for (int k = 0; k < n_threads; k++)
                CHECK_INT(w->cell[w->n_phases % 2][k], w->n_phases);
        }
        CHECK_INT(atomic_load(&w->wrong), 0);
        pool_close(w->pool);
        free(w);
    }
}

static void test_sleep(void)
{
    check_case("workers that fell asleep wake up again");
    struct counted *c = calloc(1, sizeof *c);
    struct pool *p = open_pool(2);
    for (int round = 0; round < 5; round++) {
        usleep(10000); /* longer than anybody spins */
        pool_run(p, count_job, c, 1000, 1);
    }
    CHECK_INT(c->hits[0], 5);
    CHECK_INT(c->hits[999], 5);
    pool_close(p);
    free(c);
}

static void slow_worker_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    (void)begin, (void)end;
    if (worker)
        usleep(10000); /* the leader must sleep meanwhile, and wake */
    ((int *)ctx)[worker]++;
}

static void test_slow_worker(void)
{
    check_case("a leader that fell asleep wakes up again");
    int hits[2] = { 0 };
    struct pool *p = open_pool(2);
    for (int round = 0; round < 5; round++)
        pool_run_team(p, slow_worker_job, hits);
    CHECK_INT(hits[0], 5);
    CHECK_INT(hits[1], 5);
    pool_close(p);
}

static char noted[256];

static void keep_note(void *ctx, enum log_level level, const char *line)
{
    (void)ctx, (void)level;
    snprintf(noted, sizeof noted, "%s", line);
}

static void test_failures(void)
{
    check_case("threads that cannot be created are done without");
    for (int n = 0; n < 4; n++) {
        struct counted *c = calloc(1, sizeof *c);
        log_set_sink(keep_note, NULL);
        fail_create_at = n;
        struct pool *p = open_pool(4);
        fail_create_at = -1;
        log_set_sink(NULL, NULL);
        CHECK_INT(pool_threads(p), n + 1 < 4 ? n + 1 : 4);
        if (n < 3)
            CHECK_MSG(strstr(noted, "of 4 threads") != NULL, "note is \"%s\"", noted);
        pool_run(p, count_job, c, 1000, 1);
        CHECK_INT(c->hits[0] + c->hits[999], 2);
        pool_close(p);
        free(c);
    }

    check_case("without memory pool_open says so");
    for (int n = 0; n < 2; n++) {
        struct error err = { 0 };
        struct pool *p;
        mem_fail_after((uint64_t)n);
        CHECK(!pool_open(&p, 2, &err));
        mem_fail_never();
        CHECK_INT(err.code, ERR_FIT);
        CHECK(p == NULL);
    }
    pool_close(NULL);
}

static void test_affinity(void)
{
    check_case("the caller gets its affinity back");
    cpu_set_t before, inside, after;
    sched_getaffinity(0, sizeof before, &before);
    struct pool *p = open_pool(2);
    sched_getaffinity(0, sizeof inside, &inside);
    CHECK_INT(cpu_usable_cores(), cpus_usable()->n_cores); /* pinning does not change the answer */
    pool_close(p);
    sched_getaffinity(0, sizeof after, &after);
    if (cpus_usable()->n_pinnable >= 2)
        CHECK_INT(CPU_COUNT(&inside), 1);
    CHECK(CPU_EQUAL(&before, &after));

    check_case("the caller leaves its place and comes back");
    cpu_set_t left, back, both;
    p = open_pool(2);
    sched_getaffinity(0, sizeof inside, &inside);
    pool_leave(p);
    sched_getaffinity(0, sizeof left, &left);
    pool_enter(p);
    sched_getaffinity(0, sizeof back, &back);
    pool_close(p);
    CPU_AND(&both, &left, &before);
    CHECK(CPU_EQUAL(&both, &left)); /* nowhere that was not allowed */
    CHECK(CPU_EQUAL(&back, &inside));
    CPU_AND(&both, &left, &inside);
    if (CPU_COUNT(&inside) == 1 && CPU_COUNT(&before) > 2)
        CHECK_INT(CPU_COUNT(&both), 0);
    else
        CHECK(CPU_EQUAL(&left, &before));
    sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_EQUAL(&before, &after));

    check_case("by default there is a thread for every usable core");
    p = open_pool(0);
    CHECK_INT(pool_threads(p), cpu_usable_cores());
    CHECK(cpu_usable_cores() >= 1);
    pool_close(p);
}

/* A small copy of /sys and /proc. */
static char root[] = "/tmp/tandem-test-pool-XXXXXX";

static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; *p; p++) {
        if (*p == '/') {
            *p = 0;
            mkdir(full, 0700);
            *p = '/';
        }
    }
    FILE *f = fopen(full, "w");
    CHECK_MSG(f != NULL, "cannot write %s", full);
    if (f) {
        fputs(text, f);
        fclose(f);
    }
}

static void clear_root(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK_INT(system(command), 0);
    mkdir(root, 0700);
}

static void expect(int n_cpus, int n_cores, int n_pinnable, const char *order)
{
    unsigned char allowed[CPUS_MAX] = { 0 };
    memset(allowed, 1, (size_t)n_cpus);
    struct cpus c;
    cpus_read(&c, root, allowed);
    CHECK_INT(c.n_cores, n_cores);
    CHECK_INT(c.n_pinnable, n_pinnable);
    char list[256] = "";
    for (int i = 0; i < c.n_list; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), " %d", c.list[i]);
    CHECK_STR(list, order);
}

static void test_topology(void)
{
    CHECK(mkdtemp(root) != NULL);

    check_case("no /sys at all: every allowed processor counts");
    expect(3, 3, 3, " 0 1 2");
    expect(0, 1, 1, "");

    check_case("SMT siblings come last and are not cores");
    for (int i = 0; i < 8; i++) {
        char path[128], list[32];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 i);
        snprintf(list, sizeof list, "%d,%d\n", i % 4, i % 4 + 4);
        put(path, list);
    }
    expect(8, 4, 8, " 0 1 2 3 4 5 6 7");
    unsigned char some[CPUS_MAX] = { 0, 1, 0, 0, 1, 1 }; /* 4 alone on its core, 1 and 5 together */
    struct cpus c;
    cpus_read(&c, root, some);
    CHECK_INT(c.n_cores, 2);
    CHECK_INT(c.list[0], 1);
    CHECK_INT(c.list[1], 4);
    CHECK_INT(c.list[2], 5);

    check_case("efficiency cores of hybrid processors come last");
    put("/sys/devices/cpu_core/cpus", "0-1,4-5\n");
    put("/sys/devices/cpu_atom/cpus", "2-3,6-7\n");
    expect(8, 2, 8, " 0 1 2 3 4 5 6 7");

    check_case("processors of less than half the best capacity are not cores");
    clear_root();
    static const char *const capacity[] = { "250", "250", "780", "1024" };
    for (int i = 0; i < 4; i++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpu_capacity", i);
        put(path, capacity[i]);
    }
    expect(4, 2, 4, " 2 3 0 1");
}

static void test_nodes(void)
{
    unsigned char allowed[CPUS_MAX] = { 0 };
    struct cpus c;
    short chosen[8];
    check_case("no nodes known: all is one");
    clear_root();
    memset(allowed, 1, 8);
    cpus_read(&c, root, allowed);
    CHECK_INT(c.n_nodes, 1);
    CHECK_INT(c.node_of[7], 0);

    check_case("nodes without a processor of ours do not count");
    put("/sys/devices/system/node/online", "0,2-4\n");
    put("/sys/devices/system/node/node0/cpulist", "0-1,4-5\n");
    put("/sys/devices/system/node/node2/cpulist", "\n");
    put("/sys/devices/system/node/node3/cpulist", "2-3,6-7\n");
    put("/sys/devices/system/node/node4/cpulist", "8-11\n");
    cpus_read(&c, root, allowed);
    CHECK_INT(c.n_nodes, 2);
    CHECK_INT(c.node_id[0], 0);
    CHECK_INT(c.node_id[1], 3);
    CHECK_INT(c.node_of[5], 0);
    CHECK_INT(c.node_of[6], 1);

    check_case("workers are spread over the nodes and stand in their order");
    static const short wanted[][4] = { { 0 }, { 0, 2 }, { 0, 1, 2 }, { 0, 1, 2, 3 } };
    for (int n = 1; n <= 4; n++) {
        cpus_choose(&c, n, chosen);
        for (int w = 0; w < n; w++)
            CHECK_INT(chosen[w], wanted[n - 1][w]);
    }

    check_case("cores before siblings, on every node");
    for (int i = 0; i < 8; i++) {
        char path[128], list[32];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 i);
        snprintf(list, sizeof list, "%d,%d\n", i % 4, i % 4 + 4);
        put(path, list);
    }
    static const short all[] = { 0, 1, 4, 5, 2, 3, 6, 7 }, five[] = { 0, 1, 4, 2, 3 };
    cpus_read(&c, root, allowed);
    CHECK_INT(c.n_fast, 4);
    cpus_choose(&c, 8, chosen);
    CHECK(memcmp(chosen, all, sizeof all) == 0);
    cpus_choose(&c, 5, chosen);
    CHECK(memcmp(chosen, five, sizeof five) == 0);
}

static void test_quota(void)
{
    check_case("cgroup version 2: the tightest limit on the way up");
    clear_root();
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    expect(8, 8, 8, " 0 1 2 3 4 5 6 7");
    put("/sys/fs/cgroup/a/b/cpu.max", "600000 100000\n");
    put("/sys/fs/cgroup/a/cpu.max", "350000 100000\n");
    expect(8, 3, 3, " 0 1 2 3 4 5 6 7");
    put("/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n"); /* half a CPU is still one worker */
    expect(8, 1, 1, " 0 1 2 3 4 5 6 7");

    check_case("cgroup version 2 inside a container: only the root is visible");
    clear_root();
    put("/proc/self/cgroup", "0::/host/only\n");
    put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    expect(8, 2, 2, " 0 1 2 3 4 5 6 7");

    check_case("cgroup version 1");
    clear_root();
    put("/proc/self/cgroup", "9:cpuset:/x\n4:cpu,cpuacct:/y\n1:name=systemd:/\n0::/\n");
    put("/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_period_us", "100000\n");
    expect(8, 8, 8, " 0 1 2 3 4 5 6 7");
    put("/sys/fs/cgroup/cpu,cpuacct/y/cpu.cfs_quota_us", "500000\n");
    expect(8, 5, 5, " 0 1 2 3 4 5 6 7");

    check_case("damaged cgroup files set no limit");
    put("/proc/self/cgroup", "nonsense\n:::\n4:cpu\n0::\n\n");
    expect(2, 2, 2, " 0 1");
    clear_root();
    rmdir(root);
}

int main(void)
{
    test_share();
    test_run();
    test_barrier();
    test_sleep();
    test_slow_worker();
    test_failures();
    test_affinity();
    test_topology();
    test_nodes();
    test_quota();
    return check_finish();
}
