#include "src/text/utf8.h"

#include "src/text/tokenizer.h"

static bool is_continuation(unsigned char c)
{
    return (c & 0xC0) == 0x80;
}

size_t utf8_decode(struct str s, uint32_t *code)
{
    const unsigned char *p = (const unsigned char *)s.data;
    size_t len = utf8_lead_length(p[0]);
    *code = p[0];
    if (p[0] < 0x80)
        return 1;
    if (len > 1 && len <= s.len) {
        uint32_t value = p[0] & (0x7Fu >> len);
        size_t i = 1;
        while (i < len && is_continuation(p[i]))
            value = value << 6 | (p[i++] & 0x3Fu);
        if (i == len && value <= 0x10FFFF) {
            *code = value;
            return len;
        }
    }
    *code = UTF8_REPLACEMENT;
    return 1;
}

size_t utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t len = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)((0xF00u >> len & 0xF0) | code);
    return len;
}

static bool is_surrogate(uint32_t code)
{
    return code >= 0xD800 && code <= 0xDFFF;
}

/* Bytes that `code` needs; a longer form is overlong. */
static size_t shortest_length(uint32_t code)
{
    return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

/* Leading bytes of `s` that are ASCII, eight at a time. */
static size_t ascii_run(struct str s)
{
    size_t i = 0;
    for (uint64_t word; i + 8 <= s.len; i += 8) {
        memcpy(&word, s.data + i, 8);
        if (word & 0x8080808080808080u)
            break;
    }
    while (i < s.len && (unsigned char)s.data[i] < 0x80)
        i++;
    return i;
}

bool utf8_is_strict(struct str s)
{
    while (s.len > 0) {
        size_t n = ascii_run(s);
        if (n == 0) {
            uint32_t code;
            n = utf8_decode(s, &code);
            if (n == 1 || n != shortest_length(code) || is_surrogate(code))
                return false;
        }
        s.data += n;
        s.len -= n;
    }
    return true;
}

size_t utf8_repair(struct str s, char *text, char *subject)
{
    size_t at = 0;
    while (s.len > 0) {
        uint32_t code;
        size_t n = utf8_decode(s, &code);
        utf8_encode(is_surrogate(code) ? 0xE000 : code, subject + at);
        at += utf8_encode(code, text + at);
        s.data += n;
        s.len -= n;
    }
    return at;
}

/* The range of the byte behind `lead` keeps overlong forms, surrogates and the values above
 * U+10FFFF out (Unicode 15, table 3-7); bytes after that one are plain continuations. */
static bool second_fits(unsigned char lead, unsigned char second)
{
    switch (lead) {
    case 0xE0: return second >= 0xA0 && second <= 0xBF;
    case 0xED: return second >= 0x80 && second <= 0x9F;
    case 0xF0: return second >= 0x90 && second <= 0xBF;
    case 0xF4: return second >= 0x80 && second <= 0x8F;
    default: return is_continuation(second);
    }
}

size_t utf8_complete(struct str s)
{
    /* Only the last three bytes can begin a character that is still arriving. */
    const unsigned char *p = (const unsigned char *)s.data;
    for (size_t back = 1; back <= 3 && back <= s.len; back++) {
        unsigned char lead = p[s.len - back];
        if (is_continuation(lead))
            continue;
        bool starts = lead >= 0xC2 && lead <= 0xF4;
        if (!starts || utf8_lead_length(lead) <= back)
            return s.len;
        if (back > 1 && !second_fits(lead, p[s.len - back + 1]))
            return s.len;
        return s.len - back;
    }
    return s.len;
}
