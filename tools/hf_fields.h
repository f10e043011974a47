/* Fields of config.json, each read with the range it must be in. A value that would make the model
 * compute something else than this program does is an error, never ignored: ERR_FILE naming the
 * field, what was found and what was expected. */
#ifndef TANDEM_TOOLS_HF_FIELDS_H
#define TANDEM_TOOLS_HF_FIELDS_H

#include "src/cli/json.h"

#define REQUIRED_FIELD INT64_MIN

/* An integer field in low .. high; absent or null: `fallback`, or an error when it is
 * REQUIRED_FIELD. */
bool field_int(const struct json *j, const char *key, int64_t low, int64_t high, int64_t fallback,
               int64_t *value, struct error *err);
/* A number in low .. high; NAN as fallback: required. */
bool field_real(const struct json *j, const char *key, double low, double high, double fallback,
                double *value, struct error *err);
bool field_bool(const struct json *j, const char *key, bool fallback, bool *value,
                struct error *err);
/* A text that must be one of `words`, separated by blanks, or absent. */
bool field_text_is(const struct json *j, const char *key, const char *words, struct error *err);
/* Absent, or this very value. */
bool field_bool_is(const struct json *j, const char *key, bool wanted, struct error *err);

#endif
