/* Calls in a reply: a block of tags behind the answer -> struct chat_call.
 *
 * Source: deepseek32_and_4 section 10.5. Read leniently: both generations' names of the block, any
 * white space between tags, a block that the end of the reply has cut behind a whole call. */
#ifndef TANDEM_TEXT_CHAT_REPLY_H
#define TANDEM_TEXT_CHAT_REPLY_H

#include "src/text/chat.h"

struct chat_reply {
    struct str content;      /* what stands before the block, without the empty line between */
    struct chat_call *calls; /* owned; texts are borrowed from the reply. id is empty */
    size_t n_calls;
};

/* Zeroed before; release afterwards in any case. A reply without a block is all content. ERR_RUN: a
 * block that cannot be read (it names the place); content is the whole text then. ERR_FIT. */
bool chat_reply_parse(struct str text, struct chat_reply *out, struct error *err);
void chat_reply_release(struct chat_reply *r);

/* How many bytes of an unfinished reply are content for certain, whatever comes next. */
size_t chat_reply_ready(struct str text);

#endif
