/* UTF-8: decoding as the tokenizers read it, repairing, and what of a stream may be shown. */
#include <string.h>

#include "src/text/tokenizer.h"
#include "src/text/utf8.h"
#include "tests/check.h"

static void check_utf8(void)
{
    check_case("utf8_complete holds back only what may still become a character");
    static const struct { const char *text; size_t complete; } table[] = {
        { "", 0 }, { "abc", 3 }, { "a\xC3", 1 }, { "a\xC3\xA4", 3 }, { "\xE4", 0 },
        { "\xE4\xBD", 0 }, { "\xE4\xBD\xA0", 3 }, { "x\xF0\x9F\x98", 1 }, { "\xF0\x9F", 0 },
        { "\xF0\x9F\x98\x80", 4 }, { "\xFF", 1 }, { "\xC0", 1 }, { "\xC1\x80", 2 },
        { "\x80\x80\x80", 3 }, { "\xE0\x80", 2 }, { "\xED\xA0", 2 }, { "\xF4\x90", 2 },
        { "\xF5", 1 }, { "\xF0\x8F", 2 }, { "\xED\x9F", 0 }, { "\xE4\xBD\xA0\xE5\xA5", 3 },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        CHECK_MSG(utf8_complete(str_of(table[i].text)) == table[i].complete, "row %zu", i);

    check_case("all characters encode and decode");
    for (uint32_t code = 0; code <= 0x10FFFF; code += 1 + code / 64) {
        char bytes[4];
        uint32_t again;
        size_t n = utf8_encode(code, bytes);
        CHECK_INT(utf8_decode((struct str){ bytes, n }, &again), n);
        CHECK_INT(again, code);
        bool surrogate = code >= 0xD800 && code <= 0xDFFF;
        CHECK_INT(utf8_is_strict((struct str){ bytes, n }), !surrogate);
        CHECK_INT(utf8_complete((struct str){ bytes, n }), n);
    }

    check_case("repairing: replacement, overlong forms, surrogates");
    char text[64], subject[64];
    struct str broken = { "a\xFF\xC0\xAF\xED\xA0\x80\xF4\x90\x80\x80", 11 };
    CHECK(!utf8_is_strict(broken));
    size_t n = utf8_repair(broken, text, subject);
    static const char wanted[] = "a\xEF\xBF\xBD/\xED\xA0\x80"
                                 "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD";
    CHECK_INT(n, sizeof wanted - 1);
    CHECK(memcmp(text, wanted, n) == 0);
    CHECK(utf8_is_strict((struct str){ subject, n }));
}

int main(void)
{
    check_utf8();
    return check_finish();
}
