/* Which build this is. */
#ifndef TANDEM_CLI_VERSION_H
#define TANDEM_CLI_VERSION_H

#include "src/cli/buf.h"

const char *version_prefix(void); /* where make install puts things */
const char *version_number(void); /* "0.4" */
const char *version_commit(void);

/* Name, version and commit; compiler; libraries; CUDA; instruction sets: one line each. */
void version_print(struct buf *out);

#endif
