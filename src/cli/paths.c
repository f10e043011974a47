#include "src/cli/paths.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/version.h"

/* `variable` when it is an absolute path, else HOME/fallback, then /tandem. */
static bool xdg(char *path, size_t size, const char *variable, const char *fallback)
{
    const char *base = getenv(variable), *home = getenv("HOME");
    int n;
    if (base && *base == '/')
        n = snprintf(path, size, "%s/tandem", base);
    else if (home && *home == '/')
        n = snprintf(path, size, "%s/%s/tandem", home, fallback);
    else
        return false;
    return n > 0 && (size_t)n < size;
}

static bool append(char *path, size_t size, const char *name)
{
    size_t n = strlen(path);
    int more = snprintf(path + n, size - n, "/%s", name);
    return more > 0 && (size_t)more < size - n;
}

bool path_config(char *path, size_t size)
{
    return xdg(path, size, "XDG_CONFIG_HOME", ".config") && append(path, size, "config");
}

/* The folder at position `index` of a list separated by colons; false behind the last. */
static bool folder_at(const char *list, int index, char *path, size_t size)
{
    for (; index > 0; index--) {
        list = strchr(list, ':');
        if (!list)
            return false;
        list++;
    }
    int len = (int)strcspn(list, ":");
    bool fits = *list == '/' && snprintf(path, size, "%.*s/tandem/config", len, list) < (int)size;
    if (!fits)
        *path = 0; /* not absolute: to be ignored, as the standard has it */
    return true;
}

bool path_config_at(int index, char *path, size_t size, enum config_home *home)
{
    const char *folders = getenv("XDG_CONFIG_DIRS");
    int n = 0;
    if (!folders || !*folders)
        folders = "/etc/xdg";
    while (folder_at(folders, n, path, size))
        n++;
    *home = index < n ? CONFIG_OF_SYSTEM : index == n ? CONFIG_OF_USER : CONFIG_OF_FOLDER;
    if (index < n)
        return folder_at(folders, n - 1 - index, path, size);
    *path = 0;
    if (index == n && !path_config(path, size))
        *path = 0;
    else if (index == n + 1)
        snprintf(path, size, ".tandem");
    return index <= n + 1;
}

/* mkdir -p with mode 0700. */
static bool make_folders(char *path)
{
    for (char *p = path + 1;; p++) {
        if (*p != '/' && *p)
            continue;
        char saved = *p;
        *p = 0;
        bool ok = mkdir(path, 0700) == 0 || errno == EEXIST;
        *p = saved;
        if (!ok || !saved)
            return ok;
    }
}

bool path_state(char *path, size_t size, const char *name)
{
    return xdg(path, size, "XDG_STATE_HOME", ".local/state") && make_folders(path) &&
           append(path, size, name);
}

bool path_machine(char *path, size_t size)
{
    return xdg(path, size, "XDG_CACHE_HOME", ".cache") && make_folders(path) &&
           append(path, size, "machine");
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* A word that can only have been meant as a path. */
static bool looks_like_path(const char *word)
{
    size_t n = strlen(word);
    for (const char *p = word; *p; p++)
        if (isspace((unsigned char)*p))
            return false;
    return strchr(word, '/') || (n > 5 && strcmp(word + n - 5, ".gguf") == 0);
}

/* "org/repo" as on a model hub: one slash, nothing that files have. */
static bool looks_like_repository(const char *word)
{
    const char *slash = strchr(word, '/');
    return slash && slash != word && slash[1] && !strchr(slash + 1, '/') && word[0] != '.' &&
           !strstr(word, ".gguf");
}

const char *shell_word(char *text, size_t size, const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+:@%=,-";
    size_t n = 0;
    bool bare = *name && name[0] != '-' && name[strspn(name, plain)] == 0;
    if (bare || size < 8) {
        snprintf(text, size, "%s", name);
        return text;
    }
    text[n++] = '\'';
    for (; *name && n + 6 < size; name++) {
        if (*name == '\'')
            n += (size_t)snprintf(text + n, size - n, "'\\''");
        else
            text[n++] = *name;
    }
    text[n++] = '\'';
    text[n] = 0;
    return text;
}

bool is_model_word(const char *word)
{
    return exists(word) || looks_like_path(word);
}

/* The demo model that ships with the program. */
static bool find_demo(char *path, size_t size)
{
    char self[PATH_SIZE];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = 0;
        /* beside the binary, and one folder up: the build folder lies in the project */
        for (int up = 0; up < 2; up++) {
            char *slash = strrchr(self, '/');
            if (!slash)
                break;
            *slash = 0;
            int len = snprintf(path, size, "%s/models/demo.gguf", self);
            if (len > 0 && (size_t)len < size && exists(path))
                return true;
            len = snprintf(path, size, "%s/share/tandem/demo.gguf", self);
            if (len > 0 && (size_t)len < size && exists(path))
                return true;
        }
    }
    snprintf(path, size, "%s/share/tandem/demo.gguf", version_prefix());
    if (exists(path))
        return true;
    snprintf(path, size, "models/demo.gguf");
    return exists(path);
}

static bool use_model(const struct options *o, const char *name, char *path, size_t size,
                      struct error *err)
{
    const char *configured = exists(name) ? NULL : options_configured_model(o, name);
    const char *home = getenv("HOME");
    int n = configured && strncmp(configured, "~/", 2) == 0 && home
                ? snprintf(path, size, "%s%s", home, configured + 1)
                : snprintf(path, size, "%s", configured ? configured : name);
    if (n < 0 || (size_t)n >= size)
        return fail(err, ERR_FILE, "the path of the model is longer than %zu bytes", size - 1);
    if (exists(path))
        return true;
    int cause = errno;
    if (cause == ENOENT && looks_like_repository(name))
        return fail(err, ERR_FILE,
                    "%s: no such file, and nothing is downloaded (get it with "
                    "\"hf download %s --include '*.gguf' --local-dir .\", which resumes)",
                    name, name);
    return fail(err, ERR_FILE, "%s: cannot open the model: %s", path, strerror(cause));
}

bool resolve_model(struct options *o, bool takes_prompt, char *path, size_t size,
                   struct error *err)
{
    const char *first = o->n_positional > 0 ? o->positional[0] : NULL;
    const char *second = o->n_positional > 1 ? o->positional[1] : NULL;
    const char *model = NULL, *prompt = second;
    if (first) {
        bool is_model = second || exists(first) || options_configured_model(o, first) ||
                        !takes_prompt || o->prompt || looks_like_path(first);
        if (is_model)
            model = first;
        else
            prompt = first;
    }
    /* -m together with one positional: that one can only be the prompt. */
    if (o->model_given && model && takes_prompt && !second && !o->prompt && !exists(model)) {
        prompt = model;
        model = NULL;
    }
    if (o->model_given && model)
        return fail(err, ERR_USAGE, "two models: %s and %s", o->model, model);
    if (prompt && !takes_prompt)
        return fail(err, ERR_USAGE, "unexpected argument \"%s\"", prompt);
    if (prompt && o->prompt)
        return fail(err, ERR_USAGE, "two prompts: -p and \"%s\"", prompt);
    if (prompt)
        o->prompt = prompt;
    if (model || o->model)
        return use_model(o, model ? model : o->model, path, size, err);
    return find_demo(path, size) ||
           fail(err, ERR_FILE,
                "no model: none given and models/demo.gguf is not there (tandem chat FILE.gguf)");
}
