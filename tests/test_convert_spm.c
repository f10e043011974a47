/* SentencePiece vocabularies in tokenizer.json (BPE with byte fallback): converted, then used. The ids
 * wanted are those of the Python package tokenizers 0.23 for the same tokenizer.json. */
#include "src/format/gguf.h"
#include "tests/checkpoint.h"
#include "tests/command.h"

#define HIDDEN 32
#define FIRST_PIECE 259 /* behind <unk>, <s>, </s> and the bytes */

static const char *const pieces[] = {
    "▁", "h", "e", "l", "o", "w", "r", "d", "é", ".",
    "ll", "▁h", "▁w", "or", "▁he", "▁wor", "ld", "▁hello", "ello", "llo", "▁world", "▁▁",
};
#define N_PIECES (sizeof pieces / sizeof *pieces)
#define N_VOCAB (FIRST_PIECE + (int)N_PIECES + 2) /* an added token, and a row without a text */

/* As SentencePiece is exported: all joints of a piece, pieces in the order of their scores. */
static const char merges[] =
    "\"l l\",\"▁ h\",\"▁ w\",\"o r\",\"▁h e\",\"▁w or\",\"l d\",\"e llo\",\"ll o\",\"▁he llo\","
    "\"▁h ello\",\"▁wor ld\",\"▁ ▁\"";

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"num_hidden_layers\":1,\"hidden_size\":32,"
    "\"vocab_size\":%d,\"max_position_embeddings\":64,\"intermediate_size\":32,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5,"
    "\"bos_token_id\":1,\"eos_token_id\":2,\"tie_word_embeddings\":true}";

static void write_pieces(const char *normalizer, const char *pre_tokenizer, int skipped_byte)
{
    static char text[20000];
    int n = snprintf(text, sizeof text,
                     "{\"version\":\"1.0\",\"added_tokens\":["
                     "{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"single_word\":false,"
                     "\"lstrip\":false,\"rstrip\":false,\"normalized\":false},"
                     "{\"id\":1,\"content\":\"<s>\",\"special\":true,\"single_word\":false,"
                     "\"lstrip\":false,\"rstrip\":false,\"normalized\":false},"
                     "{\"id\":2,\"content\":\"</s>\",\"special\":true,\"single_word\":false,"
                     "\"lstrip\":false,\"rstrip\":false,\"normalized\":false},"
                     "{\"id\":%d,\"content\":\"<|end|>\",\"special\":true,\"single_word\":false,"
                     "\"lstrip\":false,\"rstrip\":false,\"normalized\":false}],"
                     "\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":null,\"decoder\":null,"
                     "\"truncation\":null,\"padding\":null,"
                     "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<unk>\","
                     "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                     "\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,"
                     "\"</s>\":2", FIRST_PIECE + (int)N_PIECES, normalizer, pre_tokenizer);
    for (int byte = 0; byte < 256; byte++)
        if (byte != skipped_byte)
            n += snprintf(text + n, sizeof text - (size_t)n, ",\"<0x%02X>\":%d", (unsigned)byte,
                          3 + byte);
    for (size_t i = 0; i < N_PIECES; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, ",\"%s\":%d", pieces[i],
                      FIRST_PIECE + (int)i);
    snprintf(text + n, sizeof text - (size_t)n, "},\"merges\":[%s]}}", merges);
    write_text("tokenizer.json", text);
}

static void build(void)
{
    static struct st st;
    char text[600];
    st_start(&st);
    add_bf16(&st, "model.embed_tokens.weight", N_VOCAB, HIDDEN);
    add_bf16(&st, "model.norm.weight", 0, HIDDEN);
    add_bf16(&st, "model.layers.0.input_layernorm.weight", 0, HIDDEN);
    add_bf16(&st, "model.layers.0.post_attention_layernorm.weight", 0, HIDDEN);
    for (int i = 0; i < 4; i++) {
        char name[80];
        snprintf(name, sizeof name, "model.layers.0.self_attn.%c_proj.weight", "qkvo"[i]);
        add_bf16(&st, name, 32, HIDDEN);
    }
    add_bf16(&st, "model.layers.0.mlp.gate_proj.weight", 32, HIDDEN);
    add_bf16(&st, "model.layers.0.mlp.up_proj.weight", 32, HIDDEN);
    add_bf16(&st, "model.layers.0.mlp.down_proj.weight", HIDDEN, 32);
    st_write(&st, "model.safetensors");
    snprintf(text, sizeof text, config, N_VOCAB);
    write_text("config.json", text);
}

static void expect_ids(const char *text, const char *wanted)
{
    char line[1000], said[1000];
    snprintf(line, sizeof line, "inspect %s --tokens '%s'", in_folder("out.gguf"), text);
    CHECK_INT(run_tandem(line, said, sizeof said), 0);
    said[strcspn(said, "\n")] = 0;
    CHECK_MSG(strcmp(said, wanted) == 0, "\"%s\": %s, wanted %s", text, said, wanted);
}

static void test_ids(void)
{
    char options[600], said[2000];
    check_case("converted: the ids of the package");
    write_pieces("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"▁\"},"
                    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}]}",
                    "null", -1);
    snprintf(options, sizeof options, "-o %s --force", in_folder("out.gguf"));
    CHECK_MSG(convert(options, said) == 0, "%s", said);
    expect_ids("hello world", "276 279");
    expect_ids("hello  world.", "276 259 279 268");
    expect_ids("held", "273 275");
    expect_ids("lord Zé", "259 262 272 266 259 93 267");
    expect_ids("hello<|end|>", "276 281");

    check_case("and without a space in front");
    write_pieces("null", "{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"never\","
                    "\"split\":false}", -1);
    CHECK_MSG(convert(options, said) == 0, "%s", said);
    expect_ids("hello world", "260 277 279");
}

static void test_metadata(void)
{
    struct gguf g = { 0 };
    struct error err = { 0 };
    struct str model = { 0 };
    check_case("kinds of tokens");
    if (!CHECK_MSG(gguf_open(&g, in_folder("out.gguf"), &err), "%s", err.text))
        return;
    const struct gguf_kv *types = gguf_array(&g, "tokenizer.ggml.token_type", GGUF_KIND_INT, &err);
    CHECK(gguf_get_str(&g, "tokenizer.ggml.model", &model, &err) && str_is(model, "llama"));
    if (CHECK(types && types->count == N_VOCAB)) {
        static const struct { int id, type; } wanted[] = {
            { 0, 2 }, { 1, 3 }, { 2, 3 }, { 3, 6 }, { 258, 6 }, { FIRST_PIECE, 1 },
            { N_VOCAB - 2, 3 }, { N_VOCAB - 1, 5 },
        };
        for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
            CHECK_INT(gguf_int_at(types, (uint64_t)wanted[i].id), wanted[i].type);
    }
    gguf_close(&g);
}

static void test_faults(void)
{
    char options[600], said[2000];
    check_case("a byte is missing");
    write_pieces("null", "null", 0x41);
    snprintf(options, sizeof options, "-o %s --force", in_folder("out.gguf"));
    CHECK_INT(convert(options, said), 3);
    CHECK_MSG(strstr(said, "<0x41>"), "%s", said);
}

int main(void)
{
    if (!checkpoint_open("SentencePiece vocabularies"))
        return check_finish();
    build();
    test_ids();
    test_metadata();
    test_faults();
    checkpoint_close();
    return check_finish();
}
