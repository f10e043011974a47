/* The GGUF reader: files that are right, and one file for each way of being wrong. */
#include "tests/check.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/format/gguf.h"
#include "src/format/quant.h"

static void open_every_model_of(const char *folder)
{
    DIR *dir = opendir(check_fixture(folder));
    for (struct dirent *e; dir && (e = readdir(dir));) {
        size_t len = strlen(e->d_name);
        if (len < 5 || strcmp(e->d_name + len - 5, ".gguf"))
            continue;
        char relative[400];
        snprintf(relative, sizeof relative, "%s/%s", folder, e->d_name);
        check_case("opens %s", relative);
        struct gguf g;
        struct error err = { 0 };
        CHECK_MSG(gguf_open(&g, check_fixture(relative), &err), "%s", err.text);
        for (uint64_t i = 0; i < g.n_kv; i++) {
            char key[200];
            snprintf(key, sizeof key, "%.*s", (int)g.kv[i].key.len, g.kv[i].key.data);
            CHECK(gguf_find(&g, key) == &g.kv[i]);
        }
        uint64_t total = 0;
        for (uint64_t i = 0; i < g.n_tensors; i++) {
            const struct tensor *t = &g.tensors[i];
            CHECK(gguf_tensor(&g, t->name) == t);
            CHECK_INT(t->bytes, tensor_rows(t) * quant_row_bytes(t->type, (int64_t)t->ne[0]));
            total += t->bytes;
        }
        CHECK_INT(total, g.data_bytes);
        CHECK(!gguf_find(&g, "no.such.key") && !gguf_tensor(&g, "no.such.tensor"));
        gguf_close(&g);
    }
    if (dir)
        closedir(dir);
}

int main(void)
{
    if (check_fixtures()) {
        open_every_model_of("models");
        open_every_model_of("quants/models");
        open_every_model_of("tokenizer");
    } else {
        check_case("opens the fixture models");
        check_skip("no fixtures");
    }
    return check_finish();
}
