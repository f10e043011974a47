#include "src/cli/command.h"

static const struct command commands[] = {
    { "chat", CMD_CHAT, "talk with a model", "tandem [chat] [MODEL] [options]",
      "  tandem chat                            with the demo model\n"
      "  tandem chat r1.gguf --think on -c 16384\n",
      "On a terminal Markdown is laid out as it streams, thinking is grey, and the "
      "conversation is kept as a session together with what was computed for it, so that "
      "--continue goes on within a second or so. Answers go to standard output, "
      "everything else to standard error: through a pipe each line is a message, and its "
      "answer comes out as the model wrote it.\n"
      "The context is never cut by itself. At 80 "
      "% one line warns; when it is full the answer stops, and the ways on are named.",
      cmd_chat },
    { "run", CMD_RUN, "one prompt in, its answer out", "tandem run [MODEL] [PROMPT] [options]",
      "  tandem run v3.gguf -p \"Why is the sky blue?\"\n"
      "  git diff | tandem run v3.gguf \"Write a commit message.\" > message.txt\n",
      "The prompt is -p or the positional, then standard input, then each -f FILE, with "
      "blank lines between. The answer alone goes to standard output; thinking, progress "
      "and figures go to standard error. A run that stops at -n ends with code 0 and "
      "tells \"length\" as its finish_reason in --json.\n"
      "--batch answers a file of prompts "
      "and goes on where an earlier run stopped; --dry-run tells tokens and time, and "
      "loads nothing.",
      cmd_run },
    { "plan", CMD_PLAN, "where a model goes, whether it fits, how fast", "tandem plan [MODEL] [options]",
      "  tandem plan r1.gguf -c 65536\n"
      "  tandem plan r1.gguf --what-if \"ram=512G,bw=460,vram=24G,pcie=25,vbw=1000\"\n",
      "Reads the header of the file and says where every byte would go, whether it fits, "
      "and how fast it would answer, with a band. It loads nothing; the first time it "
      "measures the machine for about a second. The same table decides in all commands "
      "that run a model: what does not fit is refused with code 4 and commands that would "
      "work.",
      cmd_plan },
    { "inspect", CMD_INSPECT, "what is in a model file", "tandem inspect MODEL [options]",
      "  tandem inspect v3.gguf --tensors ffn_gate\n"
      "  tandem inspect v3.gguf --diff v3-q4.gguf\n",
      "Without options, a summary made from the header. --verify, --hash and --diff read "
      "all of the file. What this version cannot run is shown all the same; code 3 and "
      "the last line say why it cannot be run.",
      cmd_inspect },
    { "eval", CMD_EVAL, "logits, perplexity, loss of a quantization, right answers",
      "tandem eval [MODEL] --ppl FILE | --kl FILE | --tasks FILE | --ids FILE",
      "  tandem eval v3.gguf --ppl wiki.txt --kl-base v3.kl\n"
      "  tandem eval v3-q4.gguf --kl v3.kl\n",
      "--ppl scores a text, and with --kl-base keeps what the model expected of it; --kl "
      "compares another file of the same vocabulary with that. --tasks counts right "
      "answers, --ids with --logits writes what the model computes. --max-ppl and "
      "--max-kl end with code 6 above a limit.",
      cmd_eval },
    { "bench", CMD_BENCH, "speed, and how near to the machine's limit",
      "tandem bench [MODEL] [options]",
      "  tandem bench v3.gguf -p 512 -n 64\n"
      "  tandem bench --probe\n",
      "Each row is a test: ppN reads a prompt of N tokens, tgN generates N, @ D does so "
      "behind D tokens of context. Speeds are told in tokens per second and as a share of "
      "what this machine can do at best, which is measured just before. --compare ends "
      "with code 6 when a row is slower than in an older file.",
      cmd_bench },
    { "quantize", CMD_QUANTIZE, "a smaller file of the same model",
      "tandem quantize IN OUT TYPE [THREADS] [options]",
      "  tandem quantize v3-bf16.gguf v3-q4.gguf q4_k_m\n"
      "  tandem quantize --collect-imatrix -m r1-q8.gguf -f text.txt -o r1.imatrix\n"
      "  tandem quantize r1-q8.gguf r1-iq2.gguf ds-iq2 --imatrix r1.imatrix --dry-run\n",
      "TYPE is a mixture such as q4_k_m, by the names of llama-quantize, or one of the "
      "ds-... mixtures for DeepSeek models; --fit-ram, --fit-vram and --min-tps choose "
      "types by themselves. OUT gets its name when it is complete and verified; what was "
      "interrupted goes on with --resume and ends with the same bytes.",
      cmd_quantize },
    { "convert", CMD_CONVERT, "a Hugging Face checkpoint to a GGUF file",
      "tandem convert DIR -o OUT.gguf [options]",
      "  tandem convert DeepSeek-V3/ -o v3.gguf --type q8_0 --split-max-size 48G\n"
      "  tandem convert DeepSeek-V3/ --dry-run\n",
      "DIR is a checkpoint as published: config.json, the tokenizer's files and "
      "safetensors, FP8 and FP4 included. It is read shard by shard in one pass with "
      "little memory, and nothing in it is changed. OUT gets its name when it is "
      "complete; what was interrupted goes on with --resume.",
      cmd_convert },
    { "replay", CMD_REPLAY, "prove that an answer comes out again, bit for bit",
      "tandem replay FILE [options]",
      "  tandem run v3.gguf -p \"Why is the sky blue?\" -n 50 --record sky.json\n"
      "  tandem replay sky.json -t 2\n",
      "Computes the prompt and the answer that run --record wrote down again, token by token, and "
      "compares: code 0 when every token and the bits of all logits are the same, 6 when not, with the "
      "place of the first difference; 3 when FILE is damaged or its model is gone or another one. The "
      "number of threads and the way of loading are free; another instruction set, card or build may "
      "round differently.",
      cmd_replay },
    { "sessions", CMD_SESSIONS, "conversations that chats have kept",
      "tandem sessions [list | show NAME | export NAME | rm NAME...] [options]",
      "  tandem sessions list\n"
      "  tandem sessions export parser -o parser.md\n",
      "Every chat on a terminal is one. Names may be cut short while they are clear. "
      "export writes Markdown, or everything as JSON into a file of that ending; rm "
      "removes a conversation and what was computed for it.",
      cmd_sessions },
    { "doctor", CMD_DOCTOR, "what holds this machine back, and what mends it",
      "tandem doctor [MODEL] [options]",
      "  tandem doctor                memory, processor, card, limits; changes nothing\n"
      "  tandem doctor v3.gguf -q     its disk, too; only what could be better\n"
      "  tandem doctor --json | jq -r '.findings[] | select(.state == \"poor\") | .mend'\n",
      "Looks at memory, processor, card, limits and disk, and changes nothing. ! marks "
      "what could be better, with its reason and the command that mends it; ? what this "
      "system does not tell.",
      cmd_doctor },
    { "config", CMD_CONFIG, "which settings count, and where they come from",
      "tandem config [show] [-v] [--json]",
      "  tandem config show\n"
      "  tandem config show -v      with the defaults of all others\n",
      "A setting counts from the first of these that has it: the command line, the "
      "environment, the file .tandem of the current folder, the user's file, the "
      "system's. show lists what is set and where; -v also the defaults of all others.",
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
    buf_printf(out, "%s: %s\n\nusage: %s\n%s%s", c->name, c->summary, c->usage, c->examples,
               all ? "" : "\n"); /* each group begins with an empty line */
    options_help(out, c->bit, all);
    if (all)
        buf_puts(out, "\nEvery option also reads the environment (--ctx-size: TANDEM_CTX_SIZE) and\n"
                      "the file ~/.config/tandem/config, lines such as \"ctx-size = 8192\".\n");
    else
        buf_printf(out, "\nAll options: tandem %s --help\n", c->name);
}
