/* UTF-8, read leniently and written strictly.
 *
 * Two readers live here because the world has two rules. utf8_decode is the tokenizers' rule, taken
 * from the reference whose ids we reproduce: lead byte and continuation bits decide, so overlong
 * forms and surrogates pass (C0 AF reads as '/'), and each byte that starts nothing is malformed on
 * its own. utf8_complete (tokenizer.h) is the display rule: when may the bytes so far be shown. */
#ifndef TANDEM_TEXT_UTF8_H
#define TANDEM_TEXT_UTF8_H

#include "src/base/error.h"
#include "src/base/util.h"

#define UTF8_REPLACEMENT 0xFFFDu

/* Bytes that the lead byte announces: 1..4. Continuation bytes and F8..FF count as 1. */
static inline size_t utf8_lead_length(unsigned char lead)
{
    return lead < 0xC0 || lead >= 0xF8 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* Decode the character at the start of `s` (s.len > 0). Returns its length in bytes; a malformed
 * byte is U+FFFD of length 1. */
size_t utf8_decode(struct str s, uint32_t *code);

/* Write `code` (<= 0x10FFFF) to `out`; returns the bytes written, 1..4. */
size_t utf8_encode(uint32_t code, char out[4]);

/* Is `s` well-formed in the strict sense: no overlong form, no surrogate, nothing above U+10FFFF? */
bool utf8_is_strict(struct str s);

/* Rewrite any bytes as the BPE reference reads them: malformed bytes become U+FFFD, overlong forms
 * their short form; surrogates stay as three bytes. `text` receives that, `subject` the same length
 * with a private-use character in place of each surrogate, which is what a regex engine may see:
 * both belong to no class that any pre-tokenizer names. Each buffer holds 3 * s.len bytes. Returns
 * the length written. */
size_t utf8_repair(struct str s, char *text, char *subject);

#endif
