/* Conversations: a tree of questions with their answers, branches into it, and a folder that keeps
 * it over the end of the program.
 *
 *   $XDG_STATE_HOME/tandem/sessions/NAME/   mode 0700, files 0600
 *       talk    records as store_log.h has them: see below
 *       cache   what was computed for it (src/engine/prefix_file.h); may go at any time
 *       lock    held while a chat has it open; the number of that process
 *
 *   record  fields
 *   NODE    id, parent, time, question          the current branch goes on to it
 *   ANSW    id, time, tokens, answer, thinking
 *   BRAN    name, tip, skipped                  this branch is current, and ends there
 *   SET_    name, text                          a setting; empty: none
 *
 * The tree is complete in memory and works without a folder, too. Records are written as things
 * happen, so whatever was answered survives a kill. A parent that damage took is replaced by the
 * latest node before it. Times are seconds since 1970. */
#ifndef TANDEM_CLI_STORE_H
#define TANDEM_CLI_STORE_H

#include "src/cli/paths.h"
#include "src/cli/store_log.h"

#define STORE_NAME 64

enum store_setting {
    SET_MODEL,       /* path of its file */
    SET_DESCRIPTION, /* of the model, for people */
    SET_SYSTEM,      /* system prompt */
    SET_THINK,       /* "off", "on", "high", "max", or a number of tokens */
    SET_AUTOMATIC,   /* "yes": the program chose the name */
    N_STORE_SETTINGS
};

struct node {
    int64_t parent; /* 0: none */
    struct buf question, answer, thinking;
    int64_t time_s, n_tokens; /* n_tokens: of the answer, thinking included */
    bool exists, answered;
};

struct branch {
    char name[STORE_NAME];
    int64_t tip;       /* its last node; 0: it is empty */
    int64_t n_skipped; /* nodes at the beginning that it leaves out */
};

/* Zeroed is an empty conversation in memory alone. */
struct store {
    char name[STORE_NAME]; /* empty: kept nowhere */
    char folder[PATH_SIZE], path[PATH_SIZE]; /* of the session; of its talk */
    int lock; /* descriptor, valid while `locked` */
    bool locked;
    struct store_log log; /* closed: nothing is written */
    struct node *nodes;   /* [n_nodes], node i has number i + 1 */
    int64_t n_nodes, capacity;
    struct branch *branches;
    int n_branches, current;
    struct buf settings[N_STORE_SETTINGS];
    uint64_t n_lost; /* bytes of the talk that damage took */
};

/* May a session be called that? ERR_USAGE. */
bool store_check_name(const char *name, struct error *err);
/* Path of the folder of all sessions, which is made. ERR_RUN. */
bool store_root(char path[PATH_SIZE], struct error *err);

/* Begin a session in a new folder with what the store holds, and go on writing there; name NULL: by
 * date and number. ERR_USAGE: there is one. ERR_RUN. */
bool store_create(struct store *s, const char *name, struct error *err);
/* Open one and lock it: ERR_USAGE naming the process that has it. ERR_FILE: there is none, or it
 * cannot be read. */
bool store_open(struct store *s, const char *name, struct error *err);
/* The same to look at, without a lock; nothing is written. */
bool store_look(struct store *s, const char *name, struct error *err);
void store_close(struct store *s);
/* Lock one that cannot be read, to remove it. ERR_USAGE, ERR_FILE. */
bool store_claim(struct store *s, const char *name, struct error *err);
bool store_exists(const char *name);
/* A new name for the session; it stays open. ERR_USAGE, ERR_RUN. */
bool store_rename(struct store *s, const char *name, struct error *err);
/* Remove an open session with all its files and close it. ERR_RUN. */
bool store_remove(struct store *s, struct error *err);

/* What happens. The change is made in memory also when it cannot be written (ERR_RUN). */
bool store_ask(struct store *s, int64_t parent, struct str question, int64_t *id,
               struct error *err);
bool store_answer(struct store *s, int64_t id, struct str answer, struct str thinking,
                  int64_t n_tokens, struct error *err);
bool store_set(struct store *s, enum store_setting which, struct str text, struct error *err);
/* Make the branch current, a new one if there is none of this name, and move it. */
bool store_branch(struct store *s, const char *name, int64_t tip, int64_t n_skipped,
                  struct error *err);

struct node *store_node(const struct store *s, int64_t id); /* NULL: there is none */
/* The current branch; the first is called "main". */
const struct branch *store_current(const struct store *s);
const struct branch *store_find_branch(const struct store *s, const char *name);
/* Numbers of the nodes of a branch that are answered, first to last, without those skipped: how
 * many; ids NULL: only count. */
int64_t store_path(const struct store *s, const struct branch *b, int64_t *ids);
int64_t store_depth(const struct store *s, int64_t id); /* nodes up to and with this one */

/* ---- all of them ---- */

struct store_summary {
    char name[STORE_NAME], title[96]; /* title: the first question, on one line */
    char model[128];
    int64_t changed_s, changed_ns; /* and nanoseconds behind them */
    int64_t n_exchanges;
    int n_branches;
    uint64_t talk_bytes, cache_bytes;
};

/* All sessions, the latest first; the caller frees with mem_free. What cannot be read is left out. */
bool store_list(struct store_summary **list, int *n, struct error *err);
/* The whole name of the one that is called so, or whose name alone begins so. ERR_USAGE naming some
 * when there are several, ERR_FILE when there is none. */
bool store_match(const char *word, char name[STORE_NAME], struct error *err);
/* The latest. ERR_FILE: there is none. */
bool store_latest(char name[STORE_NAME], struct error *err);
/* Remove the oldest caches of other sessions until all together, `more` bytes included, take a tenth
 * of the disk at most. False: there is less than that much room all the same. */
bool store_make_room(const struct store *s, uint64_t more);

#endif
