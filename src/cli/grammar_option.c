#include "src/cli/grammar_option.h"

#include "src/cli/buf.h"
#include "src/cli/json_schema.h"
#include "src/text/grammar.h"

/* A schema is written on the command line or kept in a file: objects begin with a brace. */
static bool read_schema(const char *schema, struct buf *gbnf, struct error *err)
{
    struct buf text = { 0 };
    const char *start = schema + strspn(schema, " \t\r\n");
    bool given = *start == '{';
    bool ok = js_available(err);
    if (ok && given)
        buf_puts(&text, schema);
    else if (ok)
        ok = buf_read_file(&text, schema, err);
    ok = ok && buf_ok(&text, err);
    if (ok) {
        struct error why = { 0 };
        struct json *j = js_parse(buf_str(&text), &why);
        ok = j ? json_schema_grammar(j, gbnf, err) : fail(err, ERR_USAGE, "%s", why.text);
        js_free(j);
        if (!ok)
            error_prefix(err, "%s", given ? "--json-schema" : schema);
    }
    buf_release(&text);
    return ok;
}

bool grammar_text(const char *grammar_file, const char *schema, struct buf *text, struct error *err)
{
    if (grammar_file && schema)
        return fail(err, ERR_USAGE, "both --grammar and --json-schema are given");
    return schema ? read_schema(schema, text, err)
                  : !grammar_file || (buf_read_file(text, grammar_file, err) && buf_ok(text, err));
}

bool grammar_wanted(const char *grammar_file, const char *schema, struct grammar **out,
                    struct error *err)
{
    struct buf text = { 0 };
    *out = NULL;
    if (!grammar_file && !schema)
        return true;
    bool ok = grammar_text(grammar_file, schema, &text, err);
    if (ok && !grammar_parse(out, buf_str(&text), err))
        ok = error_prefix(err, "%s", grammar_file ? grammar_file : "the grammar of the schema");
    buf_release(&text);
    return ok;
}
