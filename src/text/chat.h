/* Role messages -> prompt tokens, one format per model generation.
 *
 * Formats are built in and chosen by looking for marks in the file's template text, which is
 * data and is never executed. Markers are encoded as special tokens, contents never are: nobody
 * can smuggle a role change into a message. Source: architectures section 7 (official templates
 * of each model). */
#ifndef TANDEM_TEXT_CHAT_H
#define TANDEM_TEXT_CHAT_H

#include "src/format/gguf.h"
#include "src/text/tokenizer.h"

/* In every tag of a call, between < or </ and the tag's name: a token that replies may hold. */
#define CHAT_CALL_MARK "｜DSML｜"

/* The last three exist in formats with tools only (chat_format_has_tools). */
enum chat_role {
    ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT,
    ROLE_DEVELOPER, /* an instruction that comes as a turn, with tools of its own */
    ROLE_TOOL,      /* what a call gave back */
    ROLE_REMINDER,  /* V4: facts of the moment, such as the date */
};

/* Of a call: the string itself, or the JSON text of any other value. */
struct chat_argument {
    struct str name, value;
    bool is_text;
};

struct chat_call {
    struct str id, name; /* id: told apart by it, may be empty */
    const struct chat_argument *arguments;
    size_t n_arguments;
};

/* All text is borrowed. Zeroed members are absent. */
struct chat_message {
    enum chat_role role;
    struct str content; /* of an assistant: the answer as generated, thinking included or not */

    struct str reasoning;          /* assistant: thinking that is not in content */
    const struct chat_call *calls; /* assistant: [n_calls] behind content */
    size_t n_calls;
    bool is_open;                  /* assistant, last message: the model goes on with it */
    struct str call_id;            /* tool: the call that this answers */
    struct str tools;              /* system, developer: functions in JSON, one to a line */
    struct str schema;             /* system, developer: JSON schema that answers must follow */
    const char *task;              /* user, developer, V4: "action", "query", "authority", "domain",
                                      "title", "read_url" */
};

static inline struct chat_message chat_text(enum chat_role role, struct str content)
{
    return (struct chat_message){ .role = role, .content = content };
}

/* High and max are on; where the format knows such tiers they add their text. */
enum think_mode { THINK_DEFAULT, THINK_OFF, THINK_ON, THINK_HIGH, THINK_MAX };

struct chat_format;

/* By name ("v3", "r1", ...), NULL when unknown; list with chat_format_name until NULL. */
const struct chat_format *chat_format_find(const char *name);
const struct chat_format *chat_format_at(int index);
const char *chat_format_name(const struct chat_format *f);

/* The format of a file: by its template's marks, else by pre-tokenizer, architecture and name;
 * a base model without any hint gets the plain format. Never NULL; *why tells how it was found. */
const struct chat_format *chat_format_detect(const struct gguf *g, const char **why);

/* The format that a template's text stands for (--template FILE), NULL when it has none of the
 * marks. `model_name` tells generations apart that share a template; may be empty. */
const struct chat_format *chat_format_of_template(struct str template_text, struct str model_name);

/* Can messages carry tools, calls and results? */
bool chat_format_has_tools(const struct chat_format *f);

/* Does the format know thinking at all, and is it on when nobody says? */
bool chat_format_thinks(const struct chat_format *f);
/* tandem.think_default (bool) in the file decides; without it the format does. */
bool chat_format_think_default(const struct chat_format *f, const struct gguf *g);

/* The mode to render with: `asked`, or where nobody asked and the file decides, that. */
enum think_mode chat_format_think_mode(const struct chat_format *f, const struct gguf *g,
                                       enum think_mode asked);

/* What ends thinking in this format ("</think>\n\n", "</think>"): for think_start. */
const char *chat_format_think_close(const struct chat_format *f);

/* The prompt for the next answer: all messages, then the opening of an assistant turn. Appends
 * ids to `tokens` and, if not NULL, the rendered text (special tokens visible) to `text`, which
 * the caller frees with mem_free. BOS comes exactly once, as the format and tokenizer ask.
 * Formats with a default system message insert it unless there is one; an empty one leaves it out.
 * THINK_DEFAULT is the format's own; chat_format_think_mode gives the file's.
 * A format that cannot think ignores THINK_ON: ask chat_format_thinks and warn.
 * ERR_USAGE: messages that the format has no place for, or results that answer no call.
 * *in_thinking (may be NULL): the answer starts inside a thinking block. */
bool chat_render(const struct chat_format *f, const struct tokenizer *t,
                 const struct chat_message *messages, size_t n_messages, enum think_mode think,
                 struct tokens *tokens, char **text, bool *in_thinking, struct error *err);

/* The answer without its thinking, as the next turn shows it (a view into `content`). */
struct str chat_answer_part(const struct chat_format *f, struct str content);

/* Recommended sampling of the model card where the file has none; fields < 0 mean "no advice". */
struct chat_sampling {
    float temperature, top_p;
};
struct chat_sampling chat_format_sampling(const struct chat_format *f, const struct gguf *g);

#endif
