/* Where things are kept (XDG base directories) and which model is meant. */
#ifndef TANDEM_CLI_PATHS_H
#define TANDEM_CLI_PATHS_H

#include "src/cli/options.h"

#define PATH_SIZE 4096

/* $XDG_CONFIG_HOME/tandem/config, else ~/.config/tandem/config. False without a home. */
bool path_config(char *path, size_t size);

/* Files of settings from the weakest to the strongest: the system's ($XDG_CONFIG_DIRS, else /etc/xdg;
 * the first folder of that list is the strongest), the user's, and .tandem in the current folder.
 * False behind the last; an empty path where there is none for this index. */
enum config_home { CONFIG_OF_SYSTEM, CONFIG_OF_USER, CONFIG_OF_FOLDER };
bool path_config_at(int index, char *path, size_t size, enum config_home *home);

/* $XDG_STATE_HOME/tandem/NAME, else ~/.local/state/tandem/NAME; the folder is made (mode 0700).
 * False when there is no home or the folder cannot be made. */
bool path_state(char *path, size_t size, const char *name);

/* The machine's profile (src/engine/machine.h): $XDG_CACHE_HOME/tandem/machine, else
 * ~/.cache/tandem/machine; likewise. */
bool path_machine(char *path, size_t size);

/* A file name as a word of a shell's command line, in quotes where it needs them: what we print as a
 * command can be copied. Returns `text`. */
const char *shell_word(char *text, size_t size, const char *name);

/* Can this first word of a command line only be a model: an existing file, or spelled like one? */
bool is_model_word(const char *word);

/* The model and the prompt among positionals and options: an existing file, folder or configured
 * name is the model, something else the prompt, two are model and prompt. Without a model: that of
 * the configuration, else the demo model beside the program, installed, or below the current
 * folder. takes_prompt: the command has a prompt at all. ERR_FILE when the model does not exist,
 * ERR_USAGE when something is given twice. */
bool resolve_model(struct options *o, bool takes_prompt, char *path, size_t size,
                   struct error *err);

#endif
