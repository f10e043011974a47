/* A model made ready by the options of a command: engine, session, tokenizer, chat format,
 * sampler. */
#ifndef TANDEM_CLI_LOAD_H
#define TANDEM_CLI_LOAD_H

#include "src/cli/options.h"
#include "src/engine/engine.h"
#include "src/text/constraint.h"

struct stream; /* src/cli/generate.c */

/* Zeroed is closed. */
struct loaded {
    struct engine *engine;
    const struct model *model; /* the engine's */
    struct session *session;
    struct tokenizer *tokenizer; /* NULL when no text was wanted */
    const struct chat_format *format;
    const char *format_why;
    struct sampler *sampler;
    struct constraint *constraint; /* of --grammar or --json-schema; NULL: none */
    struct grammar *grammar;       /* the same, until the constraint takes it */
    const struct stream *answering; /* the answer that is being generated, for guesses; NULL: none */
    struct sampler_options sampling; /* as resolved from flags, file and model card */
    enum think_mode think;           /* to render with; THINK_DEFAULT: the format's way */
    bool thinks;                     /* what that comes to */
    char description[128];
    double load_s;
};

enum load_want {
    WANT_ENGINE,  /* engine alone: the caller opens sessions */
    WANT_SESSION, /* and a session */
    WANT_TEXT,    /* and tokenizer, chat format, sampler */
};

/* Shows progress. n_ctx: context to open, or UNSET for that of the options. ERR_FILE, ERR_FIT,
 * ERR_USAGE, ERR_INTERRUPTED. Where the model does not fit, ways out are kept for the end (note_later).
 * loaded_close accepts a half-built one. */
bool loaded_open(struct loaded *m, const struct options *o, const char *path, enum load_want want,
                 int64_t n_ctx, struct error *err);
void loaded_close(struct loaded *m);

/* Another context for an open model with a session and text: the session is opened anew and empty,
 * and the engine with it where a GPU's memory is to be shared out anew. Errors of loaded_open; then
 * there may be no session and no engine, and only this with another n_ctx or loaded_close may
 * follow. */
bool loaded_resize(struct loaded *m, const struct options *o, const char *path, int64_t n_ctx,
                   struct error *err);

/* All of it but engine and session, from the header of a model that stays the caller's: prompts can be
 * counted. */
bool loaded_open_header(struct loaded *m, const struct options *o, const struct model *model,
                        const char *path, struct error *err);

/* Was Ctrl-C pressed meanwhile, where nobody looked? Then ERR_INTERRUPTED. */
bool load_goes_on(struct error *err);

/* What the GPU has done with routed experts since loading, for people; empty: nothing. */
const char *experts_text(const struct loaded *m, char *text, size_t size);
/* How a GPU hands experts to the CPU, for people; false: it does not. */
bool handoff_line(const struct engine *e, char *text, size_t size);

/* The next seed: another answer to the same question. */
bool loaded_reseed(struct loaded *m, struct error *err);

/* Think as asked from now on; THINK_DEFAULT: as file and format have it. */
void loaded_think(struct loaded *m, enum think_mode asked);

/* From now on answers follow this grammar, which is taken over. */
bool loaded_constrain(struct loaded *m, struct grammar *g, struct error *err);

/* Options of sampling have changed: a new sampler by them. On failure the old one stays. */
bool loaded_resample(struct loaded *m, const struct options *o, struct error *err);

/* Tokenizer and format of a file without its weights (inspect). */
bool loaded_format(const struct options *o, const struct gguf *g,
                   const struct chat_format **format, const char **why, struct error *err);

/* The system prompt of -sys or -sysf, appended; nothing when none is given. */
bool load_system(const struct options *o, struct buf *text, struct error *err);

#endif
