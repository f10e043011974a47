#include "src/engine/errand.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/thread.h"

struct errand {
    pthread_t thread;
    pthread_mutex_t lock; /* protects what follows */
    pthread_cond_t changed;
    void (*work)(void *ctx); /* NULL: nothing to do */
    void *ctx;
    bool quit;
};

static void *run(void *arg)
{
    struct errand *e = arg;
    cpu_set_t all;
    memset(&all, 0xff, sizeof all); /* the kernel leaves out what the process may not use */
    pthread_setaffinity_np(pthread_self(), sizeof all, &all);
    pthread_mutex_lock(&e->lock);
    while (!e->quit) {
        if (!e->work) {
            pthread_cond_wait(&e->changed, &e->lock);
            continue;
        }
        pthread_mutex_unlock(&e->lock);
        e->work(e->ctx);
        pthread_mutex_lock(&e->lock);
        e->work = NULL;
        pthread_cond_broadcast(&e->changed);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

bool errand_open(struct errand **out, struct error *err)
{
    *out = NULL;
    struct errand *e = mem_alloc(1, sizeof *e, "thread that copies", err);
    if (!e)
        return false;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->changed, NULL);
    if (!thread_start(&e->thread, NULL, run, e)) {
        pthread_cond_destroy(&e->changed);
        pthread_mutex_destroy(&e->lock);
        mem_free(e);
        return fail(err, ERR_RUN, "a thread that copies experts cannot be started");
    }
    *out = e;
    return true;
}

void errand_close(struct errand *e)
{
    if (!e)
        return;
    errand_wait(e);
    pthread_mutex_lock(&e->lock);
    e->quit = true;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    mem_free(e);
}

void errand_start(struct errand *e, void (*work)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&e->lock);
    e->ctx = ctx;
    e->work = work;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
}

void errand_wait(struct errand *e)
{
    pthread_mutex_lock(&e->lock);
    while (e->work)
        pthread_cond_wait(&e->changed, &e->lock);
    pthread_mutex_unlock(&e->lock);
}
