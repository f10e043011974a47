/* A folder with a Hugging Face checkpoint that a test builds itself, and the command over it.
 *
 * Every tensor's numbers follow from its name, so that a test can say what the file must hold
 * without keeping anything; FP8 is decoded here from its definition. Include it once per
 * program. */
#ifndef TANDEM_TESTS_CHECKPOINT_H
#define TANDEM_TESTS_CHECKPOINT_H

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/json.h"
#include "src/format/quant.h"
#include "tests/check.h"

static char folder[] = "/tmp/tandem-convert-XXXXXX";

static inline const char *in_folder(const char *name)
{
    static char ring[8][512];
    static int next;
    char *path = ring[next++ % 8];
    snprintf(path, sizeof ring[0], "%s/%s", folder, name);
    return path;
}

static inline void write_file(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(in_folder(name), "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n);
    if (f)
        fclose(f);
}

static inline void write_text(const char *name, const char *text)
{
    write_file(name, text, strlen(text));
}

static inline void clean_folder(void)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf %s/* %s/.[!.]*", folder, folder);
    CHECK_INT(system(command), 0);
}

/* Run the command; its exit code, its stderr in `said`. */
static inline int convert(const char *options, char said[2000])
{
    char command[2000];
    const char *b = getenv("B");
    snprintf(command, sizeof command, "%s/tandem-convert %s %s 2>%s", b ? b : "build", folder,
             options,
             in_folder("said"));
    int status = system(command);
    size_t n = 0;
    char *text = check_read_file(in_folder("said"), &n);
    snprintf(said, 2000, "%s", text ? text : "");
    free(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- a builder of safetensors files ---- */

struct st {
    char header[1 << 17];
    size_t header_len;
    uint8_t data[1 << 20];
    size_t n;
    char names[400][128]; /* for the index */
    int n_names;
};

static inline void st_start(struct st *s)
{
    memset(s, 0, sizeof *s);
    s->header_len = (size_t)snprintf(s->header, sizeof s->header,
                                     "{\"__metadata__\":{\"format\":\"pt\"}");
}

static inline void st_add(struct st *s, const char *name, const char *dtype, int rows, int cols,
                   const void *bytes, size_t n)
{
    char shape[40];
    if (rows)
        snprintf(shape, sizeof shape, "%d,%d", rows, cols);
    else
        snprintf(shape, sizeof shape, "%d", cols);
    s->header_len += (size_t)snprintf(s->header + s->header_len, sizeof s->header - s->header_len,
                                      ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                                      name, dtype, shape, s->n, s->n + n);
    memcpy(s->data + s->n, bytes, n);
    s->n += n;
    snprintf(s->names[s->n_names++], sizeof s->names[0], "%s", name);
}

static inline void st_write(const struct st *s, const char *file)
{
    static uint8_t all[(1 << 17) + (1 << 20) + 16];
    uint64_t n = s->header_len + 1;
    for (int i = 0; i < 8; i++)
        all[i] = (uint8_t)(n >> 8 * i);
    memcpy(all + 8, s->header, s->header_len);
    all[8 + s->header_len] = '}';
    memcpy(all + 8 + n, s->data, s->n);
    write_file(file, all, 8 + (size_t)n + s->n);
}

/* Element i of tensor `name`: any number that BF16 holds exactly and that differs with the name. */
static inline float value_of(const char *name, int64_t i)
{
    uint32_t h = 2166136261u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    h = (h ^ (uint32_t)i) * 2654435761u;
    return (float)((int)(h >> 24) - 128) / 64;
}

static inline void add_f32(struct st *s, const char *name, int rows, int cols)
{
    static float v[1 << 15];
    int n = (rows ? rows : 1) * cols;
    for (int i = 0; i < n; i++)
        v[i] = value_of(name, i);
    st_add(s, name, "F32", rows, cols, v, (size_t)n * 4);
}

static inline void add_bf16(struct st *s, const char *name, int rows, int cols)
{
    static uint16_t v[1 << 15];
    int n = (rows ? rows : 1) * cols;
    for (int i = 0; i < n; i++)
        v[i] = f32_to_bf16(value_of(name, i));
    st_add(s, name, "BF16", rows, cols, v, (size_t)n * 2);
}

/* ---- FP8 ---- */

static inline uint8_t fp8_code(const char *name, int64_t i)
{
    uint8_t code = (uint8_t)(fabsf(value_of(name, i)) * 64 + (float)(i % 3));
    return (code & 0x7F) == 0x7F ? 0x7E : (uint8_t)(code | (i % 5 == 0 ? 0x80 : 0));
}

static inline float fp8_scale(const char *name, int block)
{
    return 0.001f + fabsf(value_of(name, block)) / 300;
}

/* E4M3 from its definition: bias 7, no infinities. */
static inline float fp8_value(uint8_t code)
{
    int e = code >> 3 & 15, m = code & 7;
    float v = e ? ldexpf(1 + (float)m / 8, e - 7) : ldexpf((float)m / 8, -6);
    return code & 0x80 ? -v : v;
}

static inline void add_fp8(struct st *s, const char *name, int rows, int cols)
{
    static uint8_t v[1 << 16];
    float scales[16];
    char scale_name[120];
    int r = (rows + 127) / 128, c = (cols + 127) / 128;
    for (int i = 0; i < rows * cols; i++)
        v[i] = fp8_code(name, i);
    for (int i = 0; i < r * c; i++)
        scales[i] = fp8_scale(name, i);
    st_add(s, name, "F8_E4M3", rows, cols, v, (size_t)rows * (size_t)cols);
    snprintf(scale_name, sizeof scale_name, "%s_scale_inv", name);
    st_add(s, scale_name, "F32", r, c, scales, (size_t)(r * c) * 4);
}

/* What the element must be in the file. */
static inline float fp8_wanted(const char *name, int row, int col, int cols)
{
    int block = row / 128 * ((cols + 127) / 128) + col / 128;
    return fp8_value(fp8_code(name, (int64_t)row * cols + col)) * fp8_scale(name, block);
}

/* ---- the rest of a checkpoint ---- */

#define V3_REGEX "[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"}," ISOLATED "}," \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+\"}," ISOLATED "}," \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~]" \
    "[A-Za-z]+|[^\\\\r\\\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\\\r\\\\n]*|" \
    "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}," ISOLATED "}," \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]"
#define ISOLATED "\"behavior\":\"Isolated\",\"invert\":false"
#define CHECKPOINT_VOCAB 264 /* 256 bytes, "th", "the", two added tokens, four holes */

static inline void write_tokenizer(const char *regexes)
{
    static char text[16000];
    size_t n = (size_t)snprintf(text, sizeof text, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    unsigned next = 256;
    for (unsigned b = 0; b < 256; b++) {
        unsigned c = (b >= 33 && b <= 126) || (b >= 161 && b != 173) ? b : next++;
        n += (size_t)snprintf(text + n, sizeof text - n, "\"\\u%04x\":%u,", c, b);
    }
    snprintf(text + n, sizeof text - n,
             "\"th\":256,\"the\":257},\"merges\":[\"t h\",[\"th\",\"e\"]]},"
             "\"added_tokens\":[{\"id\":258,\"content\":\"<begin>\",\"special\":true},"
             "{\"id\":259,\"content\":\"<|end|>\",\"special\":false}],"
             "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":%s}}", regexes);
    write_text("tokenizer.json", text);
    write_text("tokenizer_config.json",
               "{\"bos_token\":{\"content\":\"<begin>\"},\"eos_token\":\"<|end|>\","
               "\"add_bos_token\":true,\"chat_template\":\"{{ messages }}\"}");
}

static inline const char *layer_name(int layer, const char *rest)
{
    static char ring[4][96];
    static int next;
    char *name = ring[next++ % 4];
    snprintf(name, sizeof ring[0], "model.layers.%d.%s", layer, rest);
    return name;
}

static inline void write_index(const struct st *files, int n, const char *const *names, const char *extra)
{
    static char text[80000];
    size_t len = (size_t)snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":{");
    for (int f = 0; f < n; f++)
        for (int i = 0; i < files[f].n_names; i++)
            len += (size_t)snprintf(text + len, sizeof text - len, "%s\"%s\":\"%s\"",
                                    f + i ? "," : "", files[f].names[i], names[f]);
    snprintf(text + len, sizeof text - len, "%s}}", extra);
    write_text("model.safetensors.index.json", text);
}

/* ---- from begin to end ---- */

/* The folder; false where this build cannot read configurations, or there is none: then all is
 * said. */
static inline bool checkpoint_open(const char *what)
{
    struct error err = { 0 };
    bool reads = js_available(&err);
    if (reads && mkdtemp(folder))
        return true;
    check_case("%s", what);
    if (reads)
        CHECK_MSG(false, "%s: %s", folder, strerror(errno));
    else
        check_skip("%s", err.text);
    return false;
}

static inline void checkpoint_close(void)
{
    clean_folder();
    rmdir(folder);
}

#endif
