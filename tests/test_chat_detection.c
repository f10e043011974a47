/* Which chat format a file has, by its template, name and vocabulary; whether it thinks by
 * default, and what its card says about sampling. */
#include <string.h>

#include "src/text/chat_format.h"
#include "tests/check.h"
#include "tests/vocab_file.h"

#define U "<｜User｜>"
#define A "<｜Assistant｜>"

static void test_detection(void)
{
    static const struct {
        const char *arch, *name, *pre, *template_text;
        const char *format;
    } files[] = {
        { "deepseek2", "V3.1", "deepseek-v3", "if not thinking " U A "</think>", "v3.1" },
        { "deepseek2", "DeepSeek R1", "deepseek-v3", U " " A "split('</think>')", "r1" },
        { "qwen2", "R1 Distill", "deepseek-r1-qwen",
          "'</think>' " U " '" A "<think>\\n' if not enable_thinking", "r1" },
        { "deepseek2", "DeepSeek-R1-0528", "deepseek-v3", U A "</think>", "r1-0528" },
        { "qwen3", "Deepseek R1 0528 Qwen3 8B", "qwen2", U A "</think>", "r1-0528" },
        { "deepseek2", "DeepSeek V3", "deepseek-v3", "{{'" U "'}}{{'" A "'}}", "v3" },
        { "llama", "llm", "deepseek-llm", "{{ 'User: ' + m }}{{ 'Assistant: ' + m }}", "llm" },
        { "llama", "coder", "deepseek-coder", "'### Instruction:\\n' '\\n<|EOT|>\\n'", "coder" },
        { "deepseek2", "Kimi", "kimi-k2", "<|im_user|> You are Kimi, an", "kimi" },
        { "deepseek2", "Kimi", "kimi-k2", "<|im_user|> You are a helpful assistant", "kimi-0711" },
        { "qwen2", "Qwen", "qwen2", "<|im_start|>", "chatml" },
        { "qwen3", "Qwen", "qwen2", "<|im_start|> '</think>'", "qwen3" },
        { "llama", "Llama", "llama-bpe", "<|start_header_id|>", "llama3" },
        { "deepseek2", "x", "deepseek-v3", NULL, "v3" },
        { "deepseek2", "x", "deepseek-llm", NULL, "llm" },
        { "deepseek2", "DeepSeek R1", "deepseek-v3", NULL, "r1" },
        { "deepseek2", "deepseek-r1-0528", "deepseek-v3", NULL, "r1-0528" },
        { "deepseek2", "DeepSeek-V3.1", "deepseek-v3", NULL, "v3.1" },
        { "deepseek2", "DeepSeek-V3-Base", "deepseek-v3", NULL, "plain" },
        { "deepseek2", "x", "kimi-k2", NULL, "kimi" },
        { "deepseek", "DeepSeek MoE 16b Chat", "deepseek-llm", NULL, "llm" },
        { "llama", "deepseek-coder-6.7b-instruct", "deepseek-coder", NULL, "coder" },
        { "llama", "deepseek-coder-6.7b", "deepseek-coder", NULL, "plain" },
        { "llama", "x", "default", NULL, "plain" },
        { "llama", "x", "default", "{{ something else }}", "plain" },
        { "deepseek32", "x", "deepseek-v3", "<|im_start|>", "v3.2" },
        { "deepseek4", "x", "deepseek-v3", NULL, "v4" },
        { NULL, NULL, NULL, NULL, "plain" },
        { NULL, NULL, NULL, "", "plain" },
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        check_case("detect %s, row %zu", files[i].format, i);
        struct vocab_file file;
        vf_start(&file);
        if (files[i].arch)
            vf_str(&file, "general.architecture", files[i].arch);
        if (files[i].name)
            vf_str(&file, "general.name", files[i].name);
        if (files[i].pre)
            vf_str(&file, "tokenizer.ggml.pre", files[i].pre);
        if (files[i].template_text)
            vf_str(&file, "tokenizer.chat_template", files[i].template_text);
        struct gguf g = { 0 };
        CHECK(gguf_open_memory(&g, file.bytes, vf_finish(&file), NULL));
        const char *why = NULL;
        CHECK_STR(chat_format_name(chat_format_detect(&g, &why)), files[i].format);
        CHECK(why && *why);
        CHECK(chat_format_detect(&g, NULL) != NULL);
        gguf_close(&g);
        vf_release(&file);
    }

    check_case("keys of a wrong type count as missing");
    struct vocab_file file;
    struct gguf g = { 0 };
    vf_start(&file);
    vf_u32(&file, "general.architecture", 7);
    vf_u32(&file, "tokenizer.chat_template", 7);
    vf_u32(&file, "tandem.think_default", 1);
    vf_str(&file, "general.sampling.temp", "hot");
    CHECK(gguf_open_memory(&g, file.bytes, vf_finish(&file), NULL));
    CHECK_STR(chat_format_name(chat_format_detect(&g, NULL)), "plain");
    CHECK(chat_format_think_default(chat_format_find("r1"), &g));
    CHECK(!chat_format_think_default(chat_format_find("v3.1"), &g));
    CHECK(chat_format_sampling(chat_format_find("r1"), &g).temperature == 0.6f);
    gguf_close(&g);
    vf_release(&file);

    check_case("formats by name, by template text");
    for (int i = 0; chat_format_at(i); i++)
        CHECK(chat_format_find(chat_format_name(chat_format_at(i))) == chat_format_at(i));
    CHECK(chat_format_at(-1) == NULL);
    CHECK(chat_format_find("nobody's") == NULL);
    CHECK(chat_format_of_template(str_of("nothing"), str_of("")) == NULL);
    CHECK_STR(chat_format_name(chat_format_of_template(str_of(U "</think>"), str_of("r1 0528"))),
              "r1-0528");
}

static void test_advice(void)
{
    check_case("thinking by default");
    CHECK(!chat_format_think_default(chat_format_find("v3.1"), NULL));
    CHECK(chat_format_think_default(chat_format_find("r1"), NULL));
    for (int on = 0; on < 2; on++) {
        struct vocab_file file;
        struct gguf g = { 0 };
        vf_start(&file);
        vf_bool(&file, "tandem.think_default", on);
        CHECK(gguf_open_memory(&g, file.bytes, vf_finish(&file), NULL));
        CHECK_INT(chat_format_think_default(chat_format_find("v3.1"), &g), on);
        CHECK_INT(chat_format_think_default(chat_format_find("r1"), &g), on);
        CHECK_INT(chat_format_think_default(chat_format_find("v3"), &g), 0);
        gguf_close(&g);
        vf_release(&file);
    }
    CHECK_STR(chat_format_think_close(chat_format_find("r1")), "</think>\n\n");
    CHECK_STR(chat_format_think_close(chat_format_find("v3.1")), "</think>");
    CHECK_STR(chat_format_think_close(chat_format_find("plain")), "</think>\n\n");

    static const struct {
        const char *format, *arch, *name, *pre;
        float file_temperature, temperature, top_p;
    } cards[] = {
        { "r1", "deepseek2", "R1", "deepseek-v3", -1, 0.6f, 0.95f },
        { "v3", "deepseek2", "V3", "deepseek-v3", -1, 0.7f, -1 },
        { "v3", "deepseek2", "DeepSeek V3 0324", "deepseek-v3", -1, 0.3f, -1 },
        { "llm", "llama", "llm chat", "deepseek-llm", -1, 0.7f, 0.9f },
        { "llm", "deepseek2", "V2 chat", "deepseek-llm", -1, 0.3f, -1 },
        { "v4", "deepseek4", "V4", "deepseek-v3", -1, 1, 1 },
        { "plain", "llama", "x", "default", -1, -1, -1 },
        { "r1", "deepseek2", "R1", "deepseek-v3", 0.25f, 0.25f, 0.95f },
        { "r1", "deepseek2", "R1", "deepseek-v3", -3, 0.6f, 0.95f },
    };
    for (size_t i = 0; i < ARRAY_LEN(cards); i++) {
        check_case("sampling advice, row %zu", i);
        struct vocab_file file;
        struct gguf g = { 0 };
        vf_start(&file);
        vf_str(&file, "general.architecture", cards[i].arch);
        vf_str(&file, "general.name", cards[i].name);
        vf_str(&file, "tokenizer.ggml.pre", cards[i].pre);
        if (cards[i].file_temperature != -1) {
            vf_key(&file, "general.sampling.temp", GGUF_F32);
            vf_bytes(&file, &cards[i].file_temperature, 4);
        }
        CHECK(gguf_open_memory(&g, file.bytes, vf_finish(&file), NULL));
        struct chat_sampling s = chat_format_sampling(chat_format_find(cards[i].format), &g);
        CHECK(s.temperature == cards[i].temperature && s.top_p == cards[i].top_p);
        gguf_close(&g);
        vf_release(&file);
    }
}

int main(void)
{
    test_detection();
    test_advice();
    return check_finish();
}
