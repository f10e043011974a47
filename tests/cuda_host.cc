/* Fibres, blocks and warps. What warps compute is in cuda_host_numbers.cc, the runtime in
 * cuda_host_api.cc. */
#include "tests/cuda_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_host_block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES ((size_t)512 << 10) /* frames are several times larger with red zones */
#else
#define __sanitizer_start_switch_fiber(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#define __sanitizer_finish_switch_fiber(fake, bottom, size) ((void)(fake))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#define STACK_BYTES ((size_t)128 << 10)
#endif

#define FIRST_FRAMES ((size_t)2048)
#define GUARD_BYTES ((size_t)4096)

CUDA_HOST_TLS struct cuda_host_thread *cuda_host_self;

/* ---- the context switch ----
 * Save what a callee must keep, on the stack; store the stack pointer; load the other one; restore.
 * About 2 ns, where swapcontext takes 500 (it changes the signal mask by a system call). */

#if defined(__x86_64__)
asm(R"(
.text
.type cuda_host_switch, @function
cuda_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size cuda_host_switch, . - cuda_host_switch
)");
extern "C" void cuda_host_switch(void **save, void *load) asm("cuda_host_switch");

/* A stack that looks as if it had switched away just before entering `entry`. */
static void *fresh_stack(char *top, void (*entry)())
{
    void **sp = (void **)top;
    *--sp = NULL; /* where entry would return to; keeps the stack aligned as after a call */
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++)
        *--sp = NULL;
    return sp;
}
#elif defined(__aarch64__)
asm(R"(
.text
.type cuda_host_switch, %function
cuda_host_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size cuda_host_switch, . - cuda_host_switch
)");
extern "C" void cuda_host_switch(void **save, void *load) asm("cuda_host_switch");

static void *fresh_stack(char *top, void (*entry)())
{
    void **sp = (void **)(top - 160);
    memset(sp, 0, 160);
    sp[11] = (void *)entry; /* x30 */
    return sp;
}
#else
#error "cuda_host: write the context switch for this machine"
#endif

/* ---- one block ---- */

namespace {

enum state { RUNS, AT_WARP, AT_BLOCK, ENDED };

struct copy16 { /* of async_copy16, until its wait */
    void *to;
    const void *from;
    int group;
};

struct warp {
    cuda_host_slots slots[2]; /* in turn, so that nobody overwrites what another still reads */
    int n_arrived;
    const char *what;
};

struct fibre {
    struct cuda_host_thread self; /* first: cuda_host_self is the fibre */
    int index;
    enum state state;
    const char *what; /* where it waits */
    const struct cuda_host_place *place;
    bool ended; /* went to its end the last time */
    unsigned n_meetings;
    void *sp, *fake_stack;
    char *stack;
    std::vector<copy16> copies;
    int copy_group;
};

/* What one host thread needs to run blocks. */
struct worker {
    std::vector<std::unique_ptr<fibre>> fibres;
    std::vector<warp> warps;
    std::vector<int> order;
    void *sp, *fake_stack;
    const void *stack;
    size_t stack_bytes;
    const std::function<void()> *body;
    const char *kernel;
    int n_threads, n_at_block;
    const struct cuda_host_place *block_place;
    bool stopped;
    uint64_t random;
    const char *shared;
    size_t shared_bytes;

    ~worker()
    {
        for (auto &f : fibres) { /* frames that were left for good are still marked */
            ASAN_UNPOISON_MEMORY_REGION(f->stack, STACK_BYTES);
            munmap(f->stack - GUARD_BYTES, STACK_BYTES + GUARD_BYTES);
        }
    }
};

thread_local worker this_worker;
CUDA_HOST_TLS worker *w; /* = &this_worker, without the guard of a thread_local object */

fibre *me()
{
    return (fibre *)(void *)cuda_host_self;
}

/* Give way to the scheduler. */
void leave(bool for_good)
{
    fibre *f = me();
    __sanitizer_start_switch_fiber(for_good ? NULL : &f->fake_stack, w->stack, w->stack_bytes);
    cuda_host_switch(&f->sp, w->sp);
    __sanitizer_finish_switch_fiber(f->fake_stack, NULL, NULL);
}

std::string describe(const fibre *f)
{
    char text[256];
    if (f->state == ENDED)
        snprintf(text, sizeof text, "thread %d has ended", f->index);
    else if (f->state == AT_BLOCK)
        snprintf(text, sizeof text, "thread %d waits at %s (%s:%d)", f->index, f->place->what,
                 f->place->file, f->place->line);
    else
        snprintf(text, sizeof text, "thread %d waits at %s", f->index,
                 f->what ? f->what : "nothing");
    return text;
}

/* Stop the launch; the first reason is kept. */
void stop(const fibre *a, const fibre *b)
{
    const dim3 &at = a->self.block;
    char head[256];
    snprintf(head, sizeof head, "kernel %s, block (%u, %u, %u): ", w->kernel, at.x, at.y, at.z);
    if (!w->stopped)
        cuda_host_stopped((head + describe(a) + ", " + describe(b)).c_str());
    w->stopped = true;
}

void fibre_main()
{
    __sanitizer_finish_switch_fiber(NULL, &w->stack, &w->stack_bytes);
    (*w->body)();
    fibre *f = me();
    f->state = ENDED;
    f->ended = true;
    if (!f->copies.empty()) {
        f->what = "the end with copies nobody waited for";
        f->state = AT_WARP;
        stop(f, f);
    }
    leave(true);
}

void make_fibres(int n)
{
    while ((int)w->fibres.size() < n) {
        std::unique_ptr<fibre> f(new fibre());
        f->index = (int)w->fibres.size();
        char *block = (char *)mmap(NULL, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (block == MAP_FAILED || mprotect(block, GUARD_BYTES, PROT_NONE)) {
            perror("cuda_host: stack of a fibre");
            abort();
        }
        f->stack = block + GUARD_BYTES;
        w->fibres.push_back(std::move(f));
    }
    if ((int)w->warps.size() < n / 32)
        w->warps.resize((size_t)n / 32);
}

void begin_block(dim3 block, dim3 blocks, int n_threads, void *shared)
{
    w->n_at_block = 0;
    for (int i = 0; i < n_threads; i++) {
        fibre *f = w->fibres[(size_t)i].get();
        f->self = { dim3((unsigned)i), block, dim3((unsigned)n_threads), blocks, shared };
        f->state = RUNS;
        f->what = NULL;
        f->n_meetings = 0;
        f->copies.clear();
        f->copy_group = 0;
        /* Marks of the frames that never returned: all of them after a stop, else the first. */
        size_t marked = f->ended ? FIRST_FRAMES : STACK_BYTES;
        ASAN_UNPOISON_MEMORY_REGION(f->stack + STACK_BYTES - marked, marked);
        f->ended = false;
        f->sp = fresh_stack(f->stack + STACK_BYTES, fibre_main);
    }
    for (int i = 0; i < n_threads / 32; i++)
        w->warps[(size_t)i].n_arrived = 0;
}

uint64_t next_random()
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random;
}

/* The order of this round. */
void choose_order(uint64_t order, int n)
{
    if ((int)w->order.size() != n) {
        w->order.resize((size_t)n);
        for (int i = 0; i < n; i++)
            w->order[(size_t)i] = i;
    }
    if (order <= 1) {
        for (int i = 0; i < n; i++)
            w->order[(size_t)i] = order == 0 ? i : n - 1 - i;
        return;
    }
    for (int i = n - 1; i > 0; i--)
        std::swap(w->order[(size_t)i], w->order[next_random() % (uint64_t)(i + 1)]);
}

void resume(fibre *f)
{
    cuda_host_self = &f->self;
    __sanitizer_start_switch_fiber(&w->fake_stack, f->stack, STACK_BYTES);
    cuda_host_switch(&w->sp, f->sp);
    __sanitizer_finish_switch_fiber(w->fake_stack, NULL, NULL);
}

/* Nobody can go on: name two that disagree. */
void report_deadlock(int n)
{
    const fibre *waiting = NULL, *other = NULL;
    for (int i = 0; i < n && !waiting; i++)
        if (w->fibres[(size_t)i]->state != ENDED)
            waiting = w->fibres[(size_t)i].get();
    for (int i = 0; i < n; i++) {
        const fibre *f = w->fibres[(size_t)i].get();
        bool near = waiting->state == AT_BLOCK || f->index / 32 == waiting->index / 32;
        if (near && f->state != waiting->state)
            other = f;
    }
    stop(waiting, other ? other : waiting);
}

bool run_block(uint64_t order, int n)
{
    for (;;) {
        bool moved = false;
        int n_ended = 0;
        choose_order(order, n);
        for (int i = 0; i < n; i++) {
            fibre *f = w->fibres[(size_t)w->order[(size_t)i]].get();
            if (f->state == RUNS) {
                resume(f);
                moved = true;
                if (w->stopped)
                    return false;
            }
            n_ended += f->state == ENDED;
        }
        if (n_ended == n)
            return true;
        if (!moved) {
            report_deadlock(n);
            return false;
        }
    }
}

} // namespace

bool cuda_host_run(const char *kernel, dim3 blocks, int threads, size_t shared_bytes,
                   const std::function<void()> &body, uint64_t order)
{
    w = &this_worker;
    w->kernel = kernel;
    w->body = &body;
    w->n_threads = threads;
    w->stopped = false;
    w->random = order | 1;
    make_fibres(threads);
    unsigned char *shared = NULL;
    if (posix_memalign((void **)&shared, 128, shared_bytes ? shared_bytes : 1))
        abort();
    w->shared = (const char *)shared;
    w->shared_bytes = shared_bytes;
    bool ok = true;
    for (unsigned z = 0; ok && z < blocks.z; z++) {
        for (unsigned y = 0; ok && y < blocks.y; y++) {
            for (unsigned x = 0; ok && x < blocks.x; x++) {
                memset(shared, 0xff, shared_bytes);
                begin_block(dim3(x, y, z), blocks, threads, shared);
                ok = run_block(order, threads);
            }
        }
    }
    free(shared);
    return ok;
}

/* ---- meetings ---- */

void cuda_host_block_sync(const struct cuda_host_place *place)
{
    fibre *f = me();
    f->place = place;
    f->state = AT_BLOCK;
    if (w->n_at_block > 0 && w->block_place != place) {
        for (auto &other : w->fibres)
            if (other->state == AT_BLOCK && other->place == w->block_place)
                stop(other.get(), f);
        leave(true);
    }
    w->block_place = place;
    if (++w->n_at_block < w->n_threads) {
        leave(false);
        return;
    }
    w->n_at_block = 0;
    for (int i = 0; i < w->n_threads; i++)
        w->fibres[(size_t)i]->state = RUNS;
}

unsigned char (*cuda_host_meet(const char *what, const void *mine, size_t bytes,
                               cuda_host_act *act))[CUDA_HOST_SLOT]
{
    fibre *f = me();
    warp *p = &w->warps[(size_t)f->index / 32];
    auto &slots = p->slots[f->n_meetings++ & 1];
    if (bytes)
        memcpy(slots[f->index % 32], mine, bytes);
    f->what = what;
    f->state = AT_WARP;
    if (p->n_arrived > 0 && strcmp(p->what, what) != 0) {
        for (int i = f->index / 32 * 32; i < f->index / 32 * 32 + 32; i++) {
            fibre *other = w->fibres[(size_t)i].get();
            if (other != f && other->state == AT_WARP)
                stop(other, f);
        }
        leave(true);
    }
    p->what = what;
    if (++p->n_arrived < 32) {
        leave(false);
        return slots;
    }
    p->n_arrived = 0;
    if (act)
        act(slots);
    for (int i = f->index / 32 * 32; i < f->index / 32 * 32 + 32; i++)
        w->fibres[(size_t)i]->state = RUNS;
    return slots;
}

void spin_pause()
{
    usleep(1);
    if (cuda_host_device_failed()) /* nobody will answer any more */
        stop(me(), me());
    leave(w->stopped);
}

uint64_t clock_ns()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void cuda_host_fault(const char *what)
{
    fibre *f = me();
    f->what = what;
    f->state = AT_WARP;
    stop(f, f);
    leave(true);
}

/* ---- background copies ---- */

bool cuda_host_is_shared(const void *at, size_t bytes)
{
    return (const char *)at >= w->shared && (const char *)at + bytes <= w->shared + w->shared_bytes;
}

void async_copy16(void *shared, const void *global)
{
    fibre *f = me();
    if (((uintptr_t)shared | (uintptr_t)global) & 15)
        cuda_host_fault("async_copy16 with an unaligned address");
    if (!cuda_host_is_shared(shared, 16))
        cuda_host_fault("async_copy16 to what is not shared memory");
    memset(shared, 0xff, 16);
    f->copies.push_back({ shared, global, f->copy_group });
}

void async_commit()
{
    me()->copy_group++;
}

void cuda_host_async_wait(int newest)
{
    fibre *f = me();
    size_t kept = 0;
    for (size_t i = 0; i < f->copies.size(); i++) {
        copy16 c = f->copies[i];
        if (c.group < f->copy_group - newest)
            memcpy(c.to, c.from, 16);
        else
            f->copies[kept++] = c;
    }
    f->copies.resize(kept);
}
