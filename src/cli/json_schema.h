/* JSON Schema -> grammar (src/text/grammar.h), for --json-schema.
 *
 * Every text of the grammar is valid under the schema; the reverse need not hold: members come in
 * the order in which the schema names them, space is used sparingly, numbers have at most 16
 * digits. Objects have no members besides those in "properties", unless the schema has no
 * "properties" and says nothing about additional ones, or says that they are welcome.
 *
 *     any      type (one or a list), enum, const, anyOf, oneOf (taken as anyOf), $ref to #,
 *              #/$defs/NAME and #/definitions/NAME; true and {} for any value
 *     object   properties (at most 5000), required, additionalProperties
 *     array    items, minItems, maxItems
 *     string   minLength, maxLength
 *     integer  minimum, maximum, exclusiveMinimum, exclusiveMaximum
 *
 * Titles, descriptions and the like say nothing about the text and are passed over. Every other
 * keyword is an error that names it and where it stands. */
#ifndef TANDEM_CLI_JSON_SCHEMA_H
#define TANDEM_CLI_JSON_SCHEMA_H

#include "src/cli/buf.h"
#include "src/cli/json.h"

/* Append the grammar of the schema to `gbnf`. ERR_USAGE, ERR_FIT. */
bool json_schema_grammar(const struct json *schema, struct buf *gbnf, struct error *err);

#endif
