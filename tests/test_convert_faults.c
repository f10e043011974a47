/* Checkpoints that must be refused before anything is written: hostile headers, sets of files that
 * do not fit together, scales and weights that are no numbers, configurations that say something
 * else. */
#include "src/base/util.h"
#include "tests/checkpoint_v3.h"

/* A conversion that must fail with this code before any output exists, saying `word`. */
static void refuse(const char *what, int code, const char *word)
{
    char said[2000], options[700];
    check_case("refused: %s", what);
    snprintf(options, sizeof options, "-o %s", in_folder("bad.gguf"));
    int found = convert(options, said);
    CHECK_MSG(found == code && strstr(said, word), "exit %d, wanted %d and \"%s\": %s", found, code,
              word,
              said);
    CHECK(access(in_folder("bad.gguf"), F_OK) != 0 && access(in_folder(".bad.gguf.part"),
                                                             F_OK) != 0);
}

static void write_raw(uint64_t n, const char *header, size_t data)
{
    static uint8_t all[1 << 20];
    size_t len = strlen(header);
    memset(all, 0, sizeof all);
    for (int i = 0; i < 8; i++)
        all[i] = (uint8_t)(n >> 8 * i);
    memcpy(all + 8, header, len);
    write_file("model.safetensors", all, 8 + len + data);
}

static void test_hostile_headers(void)
{
    static const struct { const char *what, *header, *word; size_t data; } cases[] = {
        { "no object", "[]", "S-01", 0 },
        { "broken JSON", "{\"a\":", "JSON", 0 },
        { "a name twice", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", "JSON", 2 },
        { "overlap", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", "S-04", 3 },
        { "gap", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", "S-04", 3 },
        { "bytes behind the tensors",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
          "S-04", 2 },
        { "outside of the file", "{\"a\":{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}}",
          "S-04", 3 },
        { "end before begin", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,1]}}",
         "S-04",
          3 },
        { "shape and bytes disagree",
         "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
          "S-04", 4 },
        { "shape overflows", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1099511627776,1099511627776],"
          "\"data_offsets\":[0,4]}}", "dimension", 4 },
        { "negative dimension", "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
          "dimension", 4 },
        { "a fraction", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}",
         "dimension",
          1 },
        { "unknown type", "{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}", "S-03",
         1 },
        { "five dimensions",
         "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,1]}}",
          "S-03", 1 },
        { "nothing in it", "{}", "no tensors", 0 },
    };
    static char deep[1 << 18];
    clean_folder();
    write_text("config.json", llama_config);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        write_raw(strlen(cases[i].header), cases[i].header, cases[i].data);
        refuse(cases[i].what, 3, cases[i].word);
    }
    write_raw(0, "{}", 0);
    refuse("header of 0 bytes", 3, "S-01");
    write_raw((uint64_t)1 << 63, "{}", 0);
    refuse("header of 2^63 bytes", 3, "S-01");
    write_raw(11, "{}        ", 0);
    refuse("header beyond the end", 3, "S-01");
    write_text("model.safetensors", "vers");
    refuse("four bytes", 3, "S-01");
    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":", 5);
    write_raw(sizeof deep - 1, deep, 0);
    refuse("JSON of great depth", 3, "JSON");
}

static void test_hostile_sets(void)
{
    build_v3();
    write_shards("");
    unlink(in_folder(shard_names[1]));
    refuse("a missing file", 3, shard_names[1]);
    build_v3();
    write_shards(",\"x\":\"../outside.safetensors\"");
    refuse("an index that leads outside", 3, "S-05");
    build_v3();
    write_shards(",\"x\":\"/etc/x.safetensors\"");
    refuse("an index with an absolute path", 3, "S-05");
    build_v3();
    write_shards(",\"model.nowhere\":\"model-00001-of-00002.safetensors\"");
    refuse("an index with a tensor too many", 3, "model.nowhere");
    build_v3();
    add_bf16(&shards[1], "model.embed_tokens.weight", N_VOCAB, HIDDEN);
    st_write(&shards[0], shard_names[0]);
    st_write(&shards[1], shard_names[1]);
    shards[1].n_names--;
    write_index(shards, 2, shard_names, "");
    refuse("a tensor in two files", 3, "both in");
    build_v3();
    add_bf16(&shards[1], "model.layers.0.surprise.weight", 1, HIDDEN);
    write_shards("");
    refuse("a tensor without a place", 3, "surprise");
    build_v3();
    add_bf16(&shards[1], "model.layers.1.mlp.experts.4.up_proj.weight", 32, HIDDEN);
    write_shards("");
    refuse("an expert too many", 3, "experts.4");
}

/* Replace the first occurrence of `old` in the header of a shard by text of the same length. */
static void rename_in(struct st *s, const char *old, const char *new_text)
{
    char *at = strstr(s->header, old);
    if (CHECK_MSG(at && strlen(old) == strlen(new_text), "no %s", old))
        memcpy(at, new_text, strlen(old));
    for (int i = 0; i < s->n_names; i++)
        if ((at = strstr(s->names[i], old)))
            memcpy(at, new_text, strlen(old));
}

static void test_fp8_faults(void)
{
    static const float bad[] = { 0, -1, NAN, INFINITY };
    static const char *const words[] = { "zero", "negative", "NaN", "infinite" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char what[40];
        build_v3();
        float scale = fp8_scale("model.layers.1.mlp.experts.3.down_proj.weight", 0);
        uint8_t *at = memmem(shards[1].data, shards[1].n, &scale, 4);
        if (CHECK(at))
            memcpy(at, &bad[i], 4);
        write_shards("");
        snprintf(what, sizeof what, "a scale that is %s", words[i]);
        refuse(what, 3, "block");
    }
    build_v3();
    rename_in(&shards[1], "experts.2.up_proj.weight_scale_inv",
              "experts.2.up_proj.weight_scale_ink");
    write_shards("");
    refuse("FP8 without scales", 3, "experts.2.up_proj.weight_scale_inv");
    build_v3();
    rename_in(&shards[1], "experts.2.up_proj.weight\"", "experts.9.up_proj.weight\"");
    write_shards("");
    refuse("a missing expert", 3, "experts.2.up_proj");
    build_v3();
    shards[1].data[0] = 0;
    uint8_t *codes = NULL;
    for (size_t i = 0; i + 64 < shards[1].n && !codes; i++) {
        bool same = true;
        for (int k = 0; same && k < 64; k++)
            same = shards[1].data[i + (size_t)k] ==
                   fp8_code("model.layers.1.mlp.experts.1.gate_proj.weight", k);
        codes = same ? shards[1].data + i : NULL;
    }
    if (CHECK(codes))
        codes[70] = 0xFF;
    write_shards("");
    refuse("a weight that is NaN", 3, "row 1, column 6");
}

static void refuse_config(const char *what, const char *old, const char *new_text, const char *word)
{
    char text[sizeof v3_config + 100];
    const char *at = strstr(v3_config, old);
    if (!CHECK_MSG(at != NULL, "%s", old))
        return;
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - v3_config), v3_config, new_text,
             at + strlen(old));
    write_text("config.json", text);
    refuse(what, 3, word);
}

static void test_config_faults(void)
{
    build_v3();
    write_shards("");
    refuse_config("two architectures", "[\"Deep", "[\"LlamaForCausalLM\",\"Deep", "architectures");
    refuse_config("an unknown architecture", "V3For", "V9For", "DeepseekV9");
    refuse_config("another hidden size", "\"hidden_size\":64", "\"hidden_size\":72",
                  "config.json implies");
    refuse_config("a missing field", "\"kv_lora_rank\"", "\"x\"", "kv_lora_rank");
    refuse_config("another router", "noaux_tc", "hash", "topk_method");
    refuse_config("another activation", "\"n_group\"", "\"hidden_act\":\"gelu\",\"n_group\"",
                  "hidden_act");
    refuse_config("mscales that differ", "\"mscale\":1.0", "\"mscale\":0.7", "mscale");
    refuse_config("another quantization", "\"fp8\"", "\"awq\"", "quant_method");
    refuse_config("FP8 unannounced", "\"quantization_config\"", "\"x\"", "quantization_config");
    write_text("config.json", v3_config);
    write_tokenizer("[{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}]");
    refuse("an unknown pre-tokenizer", 3, "--pre");
    unlink(in_folder("tokenizer.json"));
    refuse("no tokenizer", 3, "tokenizer.json");
}

int main(void)
{
    if (!checkpoint_open("checkpoints that are refused"))
        return check_finish();
    test_hostile_headers();
    test_hostile_sets();
    test_fp8_faults();
    test_config_faults();
    checkpoint_close();
    return check_finish();
}
