/* JSON for scripts: build a value and print it, or parse one line and look into it.
 *
 * json.c does it with jansson; json_none.c, in builds without libraries, refuses with a message.
 * Every constructor may return NULL (no memory, no library); setters accept NULL and remember
 * nothing: js_print reports. Text that is not valid UTF-8 is repaired with U+FFFD, numbers that are
 * not finite become null. (Calls begin with js_: jansson owns the longer prefix.) */
#ifndef TANDEM_CLI_JSON_H
#define TANDEM_CLI_JSON_H

#include "src/base/error.h"
#include "src/base/util.h"

struct json;

/* Can this build write and read JSON? ERR_USAGE naming what is missing. */
bool js_available(struct error *err);

struct json *js_object(void);
struct json *js_array(void);
struct json *js_text(struct str text);
struct json *js_int(int64_t value);
struct json *js_real(double value);
struct json *js_bool(bool value);
struct json *js_null(void);
void js_free(struct json *j);

/* The child belongs to the parent afterwards, also on failure. */
void js_set(struct json *object, const char *key, struct json *child);
void js_push(struct json *array, struct json *child);

/* Print to stdout with a newline behind; frees the value. indent 0: one line. */
bool js_print(struct json *j, int indent, struct error *err);
/* The same appended to a buffer. */
struct buf;
bool js_take_text(struct json *j, int indent, struct buf *out, struct error *err);
struct json *js_copy(const struct json *j);

/* ERR_FILE with line and column of the mistake. The caller frees. */
struct json *js_parse(struct str text, struct error *err);

/* Append a value as models were trained to read it: on one line, ", " and ": " between, members in
 * their order, floats by their shortest form (what Python's json.dumps writes without ASCII escapes). */
void js_write(struct buf *out, const struct json *j);
void js_write_text(struct buf *out, struct str text);

/* Views into a parsed value, NULL or false where there is no such thing. */
const struct json *js_get(const struct json *object, const char *key);
const struct json *js_at(const struct json *array, size_t index);
bool js_is_array(const struct json *j);
bool js_is_object(const struct json *j);
size_t js_count(const struct json *j); /* members of an object, elements of an array, else 0 */
bool js_as_text(const struct json *j, struct str *text);
bool js_as_bool(const struct json *j, bool *value);
bool js_as_int(const struct json *j, int64_t *value); /* written without fraction and exponent */
bool js_as_real(const struct json *j, double *value); /* any number */
bool js_is_null(const struct json *j);

/* The members of an object in the order of the text:
 *     struct js_cursor at = { 0 };
 *     while (js_next(object, &at)) use(at.key, at.value);                                         */
struct js_cursor {
    const char *key; /* terminated; borrowed from the object */
    const struct json *value;
    void *place;
};
bool js_next(const struct json *object, struct js_cursor *at);

#endif
