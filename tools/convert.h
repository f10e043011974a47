/* The command convert, for callers that want other intervals than it has (tests). */
#ifndef TANDEM_TOOLS_CONVERT_H
#define TANDEM_TOOLS_CONVERT_H

#include "tools/output.h"

/* Convert the checkpoint in `folder` as the options say. `pace` may be NULL. */
bool convert_folder(const char *folder, const struct options *o, const struct output_pace *pace,
                    struct error *err);

#endif
