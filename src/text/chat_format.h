/* Inside of the chat formats: a row per format, and the list of pieces a prompt is made of.
 *
 * Private to chat.c, chat_render.c, chat_tools.c and their tests; everybody else reads chat.h.
 *
 * A prompt is built in two stages. chat_segments turns messages into segments: marks (single
 * control tokens) and texts, without asking any vocabulary. Encoding then glues neighbouring texts
 * together, whether they come from the format or from a message, and pre-tokenizes each such run as
 * one; marks cut runs. Control tokens thus come from the format alone. */
#ifndef TANDEM_TEXT_CHAT_FORMAT_H
#define TANDEM_TEXT_CHAT_FORMAT_H

#include "src/text/chat.h"

#define BOS_TEXT "<｜begin▁of▁sentence｜>"
#define EOS_TEXT "<｜end▁of▁sentence｜>"
#define CALL_MARK CHAT_CALL_MARK

/* What comes before and after a message; NULL is nothing. */
struct frame {
    const char *before, *after;
};

enum history {
    HISTORY_AS_IS,       /* the format knows no thinking */
    HISTORY_AFTER_FIRST, /* an earlier answer is what follows its first </think> */
    HISTORY_AFTER_LAST,  /* ... its last one */
};

/* Texts around tools and calls; the way messages become a prompt (chat_tools.c) is the family's. */
struct tool_dialect {
    bool is_v4;
    const char *block;         /* name of the tags around calls */
    const char *before, *after; /* of the functions' schemas */
};

extern const struct tool_dialect chat_tools_v32, chat_tools_v4;

struct chat_format {
    const char *name;
    const char *bos; /* text of the BOS that the format begins with; NULL: as the tokenizer asks */
    struct frame system, user, assistant; /* assistant.before also opens the new turn */
    const char *stored;         /* between assistant.before and an earlier answer */
    const char *system_default; /* begins the text when there is no system message; unframed */
    const char *system_join;    /* not NULL: all system messages come first, joined by this */
    const char *think, *no_think; /* after the opening of the new turn; NULL: cannot think */
    const char *think_close;      /* what ends thinking that is cut short */
    bool think_by_default;
    bool trim;        /* white space around contents goes */
    bool bare_answer; /* line ends in front of earlier answers go */
    enum history history;
    const struct tool_dialect *tools; /* NULL: knows no tools */
    const char *high, *max;           /* begin the prompt at these tiers of thinking; NULL: nothing */
    float temperature, top_p; /* of the model card; < 0: no advice */
};

enum segment_kind {
    SEGMENT_BOS,     /* the tokenizer's BOS, once, in front */
    SEGMENT_EOS,     /* the mark EOS_TEXT, or whatever the tokenizer calls its EOS */
    SEGMENT_MARK,    /* a control token by its text */
    SEGMENT_FORMAT,  /* plain text of the format */
    SEGMENT_CONTENT, /* plain text of a message */
};

struct segment {
    enum segment_kind kind;
    struct str text; /* borrows from the format or the message */
};

struct segments {
    struct segment *list; /* owned */
    size_t n, capacity;
};

/* Stage one. `bos`: begin with SEGMENT_BOS. Appends; release with segments_release. */
bool chat_segments(const struct chat_format *f, const struct chat_message *messages,
                   size_t n_messages, enum think_mode think, bool bos, struct segments *out,
                   bool *in_thinking, struct error *err);
void segments_release(struct segments *s);

/* Append text of a message, or text of the format, cut at its marks; empty and NULL do nothing. */
bool segments_add(struct segments *s, enum segment_kind kind, struct str text, struct error *err);
bool segments_add_format(struct segments *s, const char *text, struct error *err);

/* Stage one of formats with tools, without BOS and without the opening of the new turn where that
 * is the messages' matter. */
bool chat_tool_segments(const struct chat_format *f, const struct chat_message *messages,
                        size_t n_messages, enum think_mode think, bool thinks,
                        struct segments *out, bool *in_thinking, struct error *err);

/* The mark that `text` begins with, or an empty string. */
struct str chat_mark_at(struct str text);

#endif
