#include "src/cli/command.h"

static const struct command commands[] = {
    { "chat", CMD_CHAT, "talk with a model", "tandem [chat] [MODEL] [options]",
      "  tandem chat                            with the demo model\n"
      "  tandem chat r1.gguf --think on -c 16384\n",
      cmd_chat },
    { "run", CMD_RUN, "one prompt in, its answer out", "tandem run [MODEL] [PROMPT] [options]",
      "  tandem run v3.gguf -p \"Why is the sky blue?\"\n"
      "  git diff | tandem run v3.gguf \"Write a commit message.\" > message.txt\n",
      cmd_run },
    { "plan", CMD_PLAN, "where a model goes, whether it fits, how fast", "tandem plan [MODEL] [options]",
      "  tandem plan r1.gguf -c 65536\n"
      "  tandem plan r1.gguf --what-if \"ram=512G,bw=460,vram=24G,pcie=25,vbw=1000\"\n",
      cmd_plan },
    { "inspect", CMD_INSPECT, "what is in a model file", "tandem inspect MODEL [options]",
      "  tandem inspect v3.gguf --tensors ffn_gate\n"
      "  tandem inspect v3.gguf --diff v3-q4.gguf\n",
      cmd_inspect },
    { "eval", CMD_EVAL, "logits, perplexity, loss of a quantization, right answers",
      "tandem eval [MODEL] --ppl FILE | --kl FILE | --tasks FILE | --ids FILE",
      "  tandem eval v3.gguf --ppl wiki.txt --kl-base v3.kl\n"
      "  tandem eval v3-q4.gguf --kl v3.kl\n",
      cmd_eval },
    { "bench", CMD_BENCH, "speed, and how near to the machine's limit",
      "tandem bench [MODEL] [options]",
      "  tandem bench v3.gguf -p 512 -n 64\n"
      "  tandem bench --probe\n",
      cmd_bench },
    { "quantize", CMD_QUANTIZE, "a smaller file of the same model",
      "tandem quantize IN OUT TYPE [THREADS] [options]",
      "  tandem quantize v3-bf16.gguf v3-q4.gguf q4_k_m\n"
      "  tandem quantize --collect-imatrix -m r1-q8.gguf -f text.txt -o r1.imatrix\n"
      "  tandem quantize r1-q8.gguf r1-iq2.gguf ds-iq2 --imatrix r1.imatrix --dry-run\n",
      cmd_quantize },
    { "convert", CMD_CONVERT, "a Hugging Face checkpoint to a GGUF file",
      "tandem convert DIR -o OUT.gguf [options]",
      "  tandem convert DeepSeek-V3/ -o v3.gguf --type q8_0 --split-max-size 48G\n"
      "  tandem convert DeepSeek-V3/ --dry-run\n",
      cmd_convert },
    { "sessions", CMD_SESSIONS, "conversations that chats have kept",
      "tandem sessions [list | show NAME | export NAME | rm NAME...] [options]",
      "  tandem sessions list\n"
      "  tandem sessions export parser -o parser.md\n",
      cmd_sessions },
    { "doctor", CMD_DOCTOR, "what holds this machine back, and what mends it",
      "tandem doctor [MODEL] [options]",
      "  tandem doctor                memory, processor, card, limits; changes nothing\n"
      "  tandem doctor v3.gguf -q     its disk, too; only what could be better\n"
      "  tandem doctor --json | jq -r '.findings[] | select(.state == \"poor\") | .mend'\n",
      cmd_doctor },
    { "config", CMD_CONFIG, "which settings count, and where they come from",
      "tandem config [show] [-v] [--json]",
      "  tandem config show\n"
      "  tandem config show -v      with the defaults of all others\n",
      cmd_config },
};

const struct command *command_at(int index)
{
    return index >= 0 && index < (int)ARRAY_LEN(commands) ? &commands[index] : NULL;
}

const struct command *command_find(const char *name)
{
    if (strcmp(name, "info") == 0)
        name = "inspect";
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

const struct command *command_of_program(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    return strncmp(name, "tandem-", 7) == 0 ? command_find(name + 7) : NULL;
}

const char *command_nearest(const char *word)
{
    const char *names[ARRAY_LEN(commands) + 1];
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        names[i] = commands[i].name;
    names[ARRAY_LEN(commands)] = "help";
    return nearest_name(word, names, ARRAY_LEN(names));
}

void help_overview(struct buf *out)
{
    buf_puts(out, "tandem runs DeepSeek-family models on your machine.\n\n"
                  "  tandem chat                        talk with the demo model\n"
                  "  tandem run model.gguf -p \"Hi!\"     one answer\n\n"
                  "usage: tandem [COMMAND] [MODEL] [options]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        buf_printf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
    buf_puts(out, "  help      help COMMAND: its options; --man: a manual page\n\n"
                  "tandem COMMAND -h: the common options; --help: all; tandem --version\n");
}

void help_command(struct buf *out, const struct command *c, bool all)
{
    buf_printf(out, "%s: %s\n\nusage: %s\n%s\n", c->name, c->summary, c->usage, c->examples);
    options_help(out, c->bit, all);
    if (all)
        buf_puts(out, "\nEvery option also reads the environment (--ctx-size: TANDEM_CTX_SIZE) and\n"
                      "the file ~/.config/tandem/config, lines such as \"ctx-size = 8192\".\n");
    else
        buf_printf(out, "\nAll options: tandem %s --help\n", c->name);
}
