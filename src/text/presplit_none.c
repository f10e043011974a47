/* presplit.c for a build without PCRE2: opens, so that ids can be decoded, but splits nothing. */
#include "src/text/presplit.h"

#include "src/base/mem.h"

struct presplit {
    const char *name;
};

const char *presplit_match(const struct str *expressions, int n)
{
    (void)expressions, (void)n;
    return NULL;
}

bool presplit_open(struct presplit **out, const char *name, struct error *err)
{
    *out = mem_alloc(1, sizeof **out, "pre-tokenizer", err);
    if (*out)
        (*out)->name = name;
    return *out != NULL;
}

void presplit_close(struct presplit *p)
{
    mem_free(p);
}

bool presplit_run(const struct presplit *p, struct str text, presplit_piece *emit, void *ctx,
                  struct error *err)
{
    (void)text, (void)emit, (void)ctx;
    return fail(err, ERR_RUN, "pre-tokenizer %s: built without PCRE2: text input is not available; "
                "token ids work", p->name);
}
