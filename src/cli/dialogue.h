/* Conversations and tools from JSON files, calls as JSON: the forms of OpenAI's chat interface.
 *
 *   --tools FILE     a list of functions, each { "name", "description", "parameters" } or wrapped as
 *                    { "type": "function", "function": {...} }; or an object with "tools"
 *   --messages FILE  a list of messages, or an object with "messages", "tools", "response_format":
 *                    role      system, user, assistant, developer, tool, latest_reminder
 *                    content   text, null, or a list of { "type": "text", "text" }
 *                    of an assistant: reasoning_content, tool_calls, prefix (go on with this one)
 *                    of a tool: tool_call_id;   of a user: task */
#ifndef TANDEM_CLI_DIALOGUE_H
#define TANDEM_CLI_DIALOGUE_H

#include "src/base/arena.h"
#include "src/cli/json.h"
#include "src/cli/options.h"
#include "src/text/chat_reply.h"

/* Zeroed is empty. */
struct dialogue {
    struct chat_message *messages; /* [n] */
    size_t n;
    bool has_tools;
    struct arena arena;     /* of messages and of what was written anew */
    struct json *files[2];  /* other texts are borrowed from here */
};

/* What options, system prompt and prompt (empty: none) make together: -sys in front, then the file's
 * messages, then the prompt as the user's. Tools go to the first system message, which is made where
 * there is none. `talk`, not NULL, stands for the file's content. `talk`, `system` and `prompt` are
 * borrowed. ERR_FILE naming file, message and what was
 * expected. Close in any case. */
bool dialogue_open(struct dialogue *d, const struct options *o, const struct json *talk,
                   struct str system, struct str prompt, struct error *err);
void dialogue_close(struct dialogue *d);

/* The calls of a reply as `tool_calls`: id, type, function with name and arguments as JSON text. */
struct json *dialogue_calls_json(const struct chat_reply *r);
/* One line each: {"name": ..., "arguments": {...}}. */
void dialogue_write_calls(struct buf *out, const struct chat_reply *r);

#endif
