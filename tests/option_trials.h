/* What every option does, seen from outside: command lines, and where each of their options shows. */
#ifndef TANDEM_TESTS_OPTION_TRIALS_H
#define TANDEM_TESTS_OPTION_TRIALS_H

/* An extended regular expression that matches a line of "out", "err", or another file of the command's
 * own folder: "!..." matches none, "" only asks for the file. "code": the exit code is the effect. */
struct effect {
    const char *option, *where, *what;
};

struct trial {
    const char *commands; /* one after the other */
    const char *line;
    int code;
    struct effect effects[12];
    const char *input;    /* on stdin; NULL: nothing */
    const char *before;   /* a command line to run first, in the same folder */
    const char *keys;     /* typed on a terminal; NULL: there is none */
    bool gpu;             /* with the emulated card */
    bool unmeasured;      /* without a profile of this machine */
};

/* Files of {W}. */
static const struct {
    const char *name, *text;
} inputs[] = {
    { "text", "Once there was a gentle frog named Gus who lived in the valley.\n" },
    { "system", "Be brief.\n" },
    { "ids", "5 6 7 8\n" },
    { "tasks", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"answer\":\"no\"}\n" },
    { "yes.gbnf", "root ::= \"yes\"\n" },
    { "messages", "[{\"role\":\"user\",\"content\":\"How are you?\"}]\n" },
    { "tools", "[{\"name\":\"look_up\",\"description\":\"d\",\"parameters\":{}}]\n" },
    { "batch", "{\"id\":\"a\",\"prompt\":\"hi\"}\n{\"id\":\"b\",\"prompt\":\"hi\"}\n" },
    { "old.json", "[{\"test\":\"pp4\",\"n_prompt\":4,\"n_gen\":0,\"n_depth\":0,\"threads\":1,"
                  "\"batch\":16,\"tok_s_median\":1e12}]\n" },
    { "bold.gbnf", "root ::= \"**bold**\"" },
    { "recipe", "ffn_down=q5_0\nq8_0\n" },
};

/* What a command needs to do anything ({B}), and to answer ({A}). */
static const struct {
    const char *command, *any, *answer;
} bases[] = {
    { "run", "{M} -p hi -n 1 --log {D}/log", "{M} -p hi --log {D}/log" },
    { "chat", "{M} -p hi -n 1 --log {D}/log", "{M} -p hi --log {D}/log" },
    { "eval", "{M} --ids {W}/ids --logits {D}/logits --log {D}/log",
      "{M} --tasks {W}/tasks --log {D}/log" },
    { "bench", "{M} -p 4 -n 0 -r 1 --limits kept --log {D}/log", "" },
    { "plan", "{M}", "" },
    { "replay", "{D}/record --log {D}/log", "" },
};

static const char checkpoint_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"num_hidden_layers\":1,\"hidden_size\":256,"
    "\"vocab_size\":264,\"max_position_embeddings\":64,\"intermediate_size\":256,\"head_dim\":32,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5,"
    "\"tie_word_embeddings\":true}";

/* What a replay replays. */
#define RECORD "run {M} -p hi -n 2 --cpu-isa avx2 --record {D}/record"

#define EVERYTHING "chat run plan inspect eval bench quantize convert replay sessions doctor config"

static const struct trial trials[] = {
    /* prompt */
    { "run", "{M} -p hi --dry-run", 0,
      .effects = { { "prompt", "out", "^prompt +5 tokens" },
                   { "dry-run", "out", "nothing was loaded" } } },
    { "chat", "{M} -p hi -n 1 --log {D}/log", 0,
      .effects = { { "prompt", "log", "answer: 5 tokens of prompt" } } },
    { "inspect", "{M} -p hi", 0, .effects = { { "prompt", "out", "<｜User｜>hi<" } } },
    { "run", "{M} -f {W}/text --dry-run", 0,
      .effects = { { "file", "out", "^prompt +18 tokens" } } },
    { "run chat eval", "{A} -n 1 -sys 'Be brief.'", 0,
      .effects = { { "system-prompt", "log", "answer: 8 tokens of prompt" },
        { "predict", "log", "; 1 tokens written" } } },
    { "run chat eval", "{A} -n 1 -sysf {W}/system", 0,
      .effects = { { "system-prompt-file", "log", "answer: 8 tokens of prompt" } } },
    { "inspect", "{M} -p hi -sys 'Be brief.'", 0,
      .effects = { { "system-prompt", "out", "Be brief" } } },
    { "inspect", "{M} -p hi -sysf {W}/system", 0,
      .effects = { { "system-prompt-file", "out", "Be brief" } } },
    { "run chat eval", "{A} -n 3 --think off", 0,
      .effects = { { "think", "log", " 0 of them thinking" } } },
    { "run chat eval", "{A} -n 3 --no-think", 0,
      .effects = { { "no-think", "log", " 0 of them thinking" } } },
    { "inspect", "{M} -p hi --think off", 0, .effects = { { "think", "out", "</think>" } } },
    { "inspect", "{M} -p hi --no-think", 0, .effects = { { "no-think", "out", "</think>" } } },
    { "run chat eval", "{A} -n 1 --template chatml", 0,
      .effects = { { "template", "log", "chat format chatml" } } },
    { "inspect", "{M} -p hi --template chatml", 0,
      .effects = { { "template", "out", "<.im_start.>" } } },
    { "run", "{M} --messages {W}/messages --dry-run", 0,
      .effects = { { "messages", "out", "^prompt +[0-9]+ tokens" } } },
    { "inspect", "{M} --messages {W}/messages", 0,
      .effects = { { "messages", "out", "How are you" } } },
    { "run", "{M} -p hi --tools {W}/tools --template v3.2 --dry-run", 0,
      .effects = { { "tools", "out", "^prompt +[0-9]{3} tokens" } } },
    { "inspect", "{M} -p hi --tools {W}/tools --template v3.2", 0,
      .effects = { { "tools", "out", "look_up" } } },
    { "run", "{M} --batch {W}/batch -n 1", 0, .effects = { { "batch", "out", "\"id\": \"b\"" } } },
    { "run", "{M} -p hi --raw --dry-run", 0, .effects = { { "raw", "out", "as written" } } },

    /* answer */
    { "run chat eval", "{A} --no-think --temp 0 --stop small", 0,
      .effects = { { "stop", "log", "; [0-9] tokens written.*end: stop" } } },
    { "run chat", "{A} --no-think --grammar {W}/yes.gbnf", 0,
      .effects = { { "grammar", "out", "^yes$" } } },
    { "run chat", "{A} --no-think -j '{\"enum\":[17]}'", 0,
      .effects = { { "json-schema", "out", "^17$" } } },
    { "run", "{M} -p hi --temp 0 --show-thinking stdout", 0,
      .effects = { { "show-thinking", "out", "simple question" } } },
    { "chat", "{M} -p hi --temp 0 --show-thinking full", 0,
      .effects = { { "show-thinking", "err", "simple question" } } },
    { "run", "{M} -p hi -n 2 -o {D}/answer", 0, .effects = { { "output", "answer", "" } } },
    { "run", "{M} -p hi -n 2 --jsonl", 0,
      .effects = { { "jsonl", "out", "\"event\": \"done\"" } } },
    { "run", "{M} -p hi -n 2 --json --logprobs 2", 0,
      .effects = { { "json", "out", "\"completion_tokens\": 2" },
                   { "logprobs", "out", "\"logprobs\": " } } },
    { "run", "{M} -p hi -n 1 --prefix-cache {D}/kept", 0,
      .effects = { { "prefix-cache", "kept", "" } } },
    { "run", "{M} -p hi -n 1 --save-session one", 0,
      .effects = { { "save-session", "state/tandem/sessions/one/talk", "" } } },
    { "run", "{B} --record {D}/record", 0,
      .effects = { { "record", "record", "^.\"record\": 1, " } } },
    { "replay", "{B} -t 1 --cpu-isa avx2 --load copy", 0,
      .effects = { { "threads", "log", "threads 1," }, { "cpu-isa", "log", "cpu-isa avx2," },
        { "load", "log", "weights copied" }, { "log", "log", "ended with code 0" } },
      .before = RECORD },
    { "replay", "{D}/record --json", 0, .effects = { { "json", "out", "\"same\": true" } },
      .before = RECORD },
    { "replay", "{D}/record -m {W}/other.gguf", 3, .effects = { { "model", "err", "another model" } },
      .before = RECORD },
    { "replay", "{D}/record -ngl all", 5, .effects = { { "gpu-layers", "code", "" } }, .before = RECORD },
    { "replay", "{B} -v", 0, .effects = { { "verbose", "err", "activations" } }, .before = RECORD },
    { "replay", "{D}/record --cpu-isa neon -q", 6, .effects = { { "quiet", "err", "!lacks part" } },
      .before = RECORD },
    { "chat", "{M} -p hi -n 1 --session one", 0,
      .effects = { { "session", "state/tandem/sessions/one/talk", "" } } },
    { "chat", "{M} -p hi -n 1 --continue --log {D}/log", 0,
      .effects = { { "continue", "log", "answer: 1[0-9] tokens of prompt" } },
      .before = "chat {M} -p hi -n 1 --session one" },
    { "chat", "{M} --no-save", 0,
      .effects = { { "no-save", "out", "!saved " } }, .keys = "hi\r\4" },
    { "chat", "{M} --no-history", 0,
      .effects = { { "no-history", "state/tandem/history", "!hello" } },
      .keys = "hello\r\4" },
    { "chat", "{M} -p hi --no-think --grammar {W}/bold.gbnf --markdown off", 0,
      .effects = { { "markdown", "out", "[*][*]bold[*][*]" } }, .keys = "\4" },
    { "chat", "{M} --temp 0 --no-think -p 'Tell me a story.' -n 40 --live", 0,
      .effects = { { "live", "out", " [0-9]+ tokens · [0-9]+ s · context " } }, .keys = "\4" },
    { "run chat", "{A} -n 3 --stats", 0, .effects = { { "stats", "err", "tok/s" } } },
    { "run chat", "{B} --heat {D}/heat.csv", 0,
      .effects = { { "heat", "heat.csv", "^layer,expert,picks" } } },
    { "bench", "{B} --heat {D}/heat.csv", 0,
      .effects = { { "heat", "heat.csv", "^layer,expert,picks" } } },
    { "run chat eval bench", "{B}", 0, .effects = { { "log", "log", "ended with code 0" } } },

    /* sampling */
    { "run chat eval",
      "{A} -n 1 --temp 0.5 --top-k 7 --top-p 0.5 --min-p 0.25 -s 11 --repeat-penalty 1.5 "
      "--presence-penalty 0.75 --frequency-penalty 0.125 --logit-bias 5+2", 0,
      .effects = { { "temp", "log", "sampling: temp 0.5," }, { "top-k", "log", "top-k 7," },
        { "top-p", "log", "top-p 0.5," }, { "min-p", "log", "min-p 0.25," },
        { "seed", "log", "seed 11;" }, { "repeat-penalty", "log", "repeat-penalty 1.5," },
        { "presence-penalty", "log", "presence-penalty 0.75," },
        { "frequency-penalty", "log", "frequency-penalty 0.125," },
        { "logit-bias", "log", "biases 1," } } },

    /* model and machine */
    { "run chat", "-m {W}/other.gguf -p hi -n 1 --log {D}/log", 0,
      .effects = { { "model", "log", "model: .*other.gguf" } } },
    { "eval", "-m {W}/other.gguf --ids {W}/ids --logits {D}/logits --log {D}/log", 0,
      .effects = { { "model", "log", "model: .*other.gguf" } } },
    { "bench", "-m {W}/other.gguf -p 4 -n 0 -r 1 --limits kept --log {D}/log", 0,
      .effects = { { "model", "log", "model: .*other.gguf" } } },
    { "plan", "-m {W}/other.gguf", 0,
      .effects = { { "model", "out", "chat with it: .*other.gguf" } } },
    { "inspect", "-m {W}/other.gguf", 0, .effects = { { "model", "out", "!Q4_K" } } },
    { "run chat eval", "{B} -c 64", 0, .effects = { { "ctx-size", "log", "context 64," } } },
    { "bench", "{B} -c 64", 0, .effects = { { "ctx-size", "log", "pp4: .* context 64" } } },
    { "run chat eval bench", "{B} -t 1 -b 16 --cpu-isa avx2 --numerics gguf", 0,
      .effects = { { "threads", "log", "threads 1," },
        { "batch-size", "log", "batch 16," }, { "cpu-isa", "log", "cpu-isa avx2," },
        { "numerics", "log", "numerics gguf," } } },
    { "plan", "{M} -c 64 -t 1 -b 16 --emit", 0,
      .effects = { { "ctx-size", "out", "-c 64 " }, { "threads", "out", "-t 1 " },
        { "batch-size", "out", "-b 16 " }, { "emit", "out", "^-c [0-9]+ -b [0-9]+ -t [0-9]+ " } } },
    { "run chat eval bench", "{B} --deterministic", 0,
      .effects = { { "deterministic", "log", "batch 1," } } },
    { "plan", "{M} --emit --deterministic", 0, .effects = { { "deterministic", "out", "-b 1 " } } },
    { "plan", "{M} --cpu-isa avx2", 0,
      .effects = { { "cpu-isa", "cache/tandem/machine", "^isa = avx2" } }, .unmeasured = true },
    { "plan inspect", "{M} --json --numerics gguf", 0,
      .effects = { { "numerics", "out", "\"numerics\": \"gguf\"" },
                   { "json", "out", "^ *\"architecture\": " } } },
    { "run chat eval bench plan", "{B} -ngl all", 5, .effects = { { "gpu-layers", "code", "" } } },
    { "run chat eval bench plan", "{B} -ngl all --device 7", 5,
      .effects = { { "device", "err", "no GPU 7" } },
      .gpu = true },
    { "run chat eval bench", "{B} -ngl all -cmoe -c 64 -b 8 --handoff stop", 0,
      .effects = { { "handoff", "log", "hand-off to the CPU: by stopping" },
        { "cpu-moe", "log", "routed experts from layer [1-9]" } }, .gpu = true },
    { "run chat eval bench", "{B} --load copy --numa 2 --mlock", 0,
      .effects = { { "load", "log", "weights copied" }, { "numa", "log", "nodes 2," },
        { "mlock", "log", "--mlock: " } } },
    { "run chat eval bench", "{B} --no-mmap", 0,
      .effects = { { "no-mmap", "log", "weights copied" } } },
    { "run chat eval bench", "{B} --load copy --mmap", 0,
      .effects = { { "mmap", "log", "used in the file" } } },
    { "plan", "{M} --emit --load copy", 0, .effects = { { "load", "out", "--load copy" } } },
    { "plan", "{M} --emit --no-mmap", 0, .effects = { { "no-mmap", "out", "--load copy" } } },
    { "plan", "{M} --emit --load copy --mmap", 0, .effects = { { "mmap", "out", "--load mmap" } } },
    { "run chat eval", "{A} --no-think --temp 0 -n 8 --draft 1", 0,
      .effects = { { "draft", "log", "drafting: [0-9]+ of [1-9]" } } },
    { "plan", "{M} --draft off", 0, .effects = { { "draft", "out", "!drafting" } } },
    { "run chat eval plan", "{B} --draft-model {M}", 2,
      .effects = { { "draft-model", "err", "a block .* in its own file" } } },
    { "run chat eval", "{B} -c 64 --act f32", 0, .effects = { { "act", "log", "cache 288" } } },
    { "bench", "{B} --act f32", 0, .effects = { { "act", "log", "cache 9.0 MiB" } } },
    { "plan", "{M} -c 64 --act f32", 0,
      .effects = { { "act", "out", "cache for 64 .* 0.3 MiB" } } },

    /* placement */
    { "run chat eval bench", "{B} -c 64 -b 8 -ngl all --gpu-experts 3 -ncmoe 2", 0,
      .effects = { { "n-cpu-moe", "log", "routed experts from layer 2 on" },
        { "gpu-experts", "log", "copies of 3 experts" } }, .gpu = true },
    { "plan", "{M} --emit --vram 8G -ngl all -ncmoe 2 --gpu-experts 3", 0,
      .effects = { { "n-cpu-moe", "out", "-ncmoe 2" }, { "gpu-experts", "out", "--gpu-experts 3" },
        { "vram", "out", "-ngl " } } },
    { "plan", "{M} --vram 8G -ngl all -cmoe", 0,
      .effects = { { "cpu-moe", "out", "^  routed experts +(file|RAM)" } } },
    { "run chat eval bench", "{B} -c 64 -b 8 -ngl all -ot .*=cpu", 0,
      .effects = { { "override-tensor", "log", "GPU 0: .* 0 MiB of weights" } }, .gpu = true },
    { "plan", "{M} --vram 8G -ngl all -ot .*=cpu", 0,
      .effects = { { "override-tensor", "out", "^  attention.* (file|RAM) " } } },
    { "run chat eval bench plan", "{B} -ngl all --vram 1M", 4,
      .effects = { { "vram", "code", "" } }, .gpu = true },
    { "run chat eval bench plan", "{B} -ngl all --vram-margin 10000G", 4,
      .effects = { { "vram-margin", "code", "" } },
      .gpu = true },
    { "run chat eval bench plan", "{B} -ngl all -fitt 10000000", 4,
      .effects = { { "fit-target", "code", "" } },
      .gpu = true },
    { "run chat eval bench plan", "{B} --ram 1M", 4, .effects = { { "ram", "code", "" } } },
    { "run chat eval plan", "{B} -c 64 -t 2 --ram 76M --load mmap --force", 0,
      .effects = { { "force", "code", "" } } },
    { "run chat eval", "{B} -c 64 -ctk f32", 0,
      .effects = { { "cache-type", "log", "cache 288" } } },
    { "bench", "{B} -ctk f32", 0, .effects = { { "cache-type", "log", "cache 9.0 MiB" } } },
    { "plan", "{M} -c 64 -ctk f32", 0,
      .effects = { { "cache-type", "out", "cache for 64 .* 0.3 MiB" } } },

    /* plan */
    { "plan", "{M} --min-tps 900000", 4, .effects = { { "min-tps", "code", "" } } },
    { "plan", "{M} --max-joules 1", 4, .effects = { { "max-joules", "err", "joules per token" } } },
    { "plan", "{M} --what-if ram=512G,bw=460", 0,
      .effects = { { "what-if", "out", "another machine" } } },
    { "plan", "{M} --compare", 0, .effects = { { "compare", "out", "this file" } } },
    { "plan", "{M} --explain", 0, .effects = { { "explain", "out", "Time of a token" } } },

    /* inspect */
    { "inspect", "{M} --tokens <｜User｜> --no-special", 0,
      .effects = { { "tokens", "out", "^[0-9]+ [0-9 ]+$" },
                   { "no-special", "out", "^[0-9]+ [0-9 ]+$" } } },
    { "inspect", "{M} --tensors attn_norm", 0,
      .effects = { { "tensors", "out", "^blk.0.attn_norm.weight" } } },
    { "inspect", "{M} --metadata general.architecture", 0,
      .effects = { { "metadata", "out", "^deepseek2$" } } },
    { "inspect", "{M} --verify", 0, .effects = { { "verify", "out", "every value is finite" } } },
    { "inspect", "{M} --hash", 0, .effects = { { "hash", "out", "^[0-9a-f]{8} +\\(all\\)" } } },
    { "inspect", "{M} --diff {W}/other.gguf", 1, .effects = { { "diff", "code", "" } } },

    /* eval */
    { "eval", "{M} --ids {W}/ids --logits {D}/logits", 0,
      .effects = { { "ids", "logits", "" }, { "logits", "logits", "" } } },
    { "eval", "{M} --ppl LICENSE -c 32 --chunks 2", 0,
      .effects = { { "ppl", "out", "^perplexity [0-9]" },
                   { "chunks", "out", "2 windows of 32" } } },
    { "eval", "{M} --ppl LICENSE -c 32 --chunks 1 --max-ppl 1.01", 6,
      .effects = { { "max-ppl", "code", "" } } },
    { "eval", "{M} --ppl LICENSE -c 32 --chunks 1 --kl-base {D}/base", 0,
      .effects = { { "kl-base", "base", "" } } },
    { "eval", "{M} --kl {D}/base", 0, .effects = { { "kl", "out", "KL divergence +0.000000" } },
      .before = "eval {M} --ppl LICENSE -c 32 --chunks 1 --kl-base {D}/base" },
    { "eval", "{M} --kl {D}/base --act f32 --max-kl 0", 6, .effects = { { "max-kl", "code", "" } },
      .before = "eval {M} --ppl LICENSE -c 32 --chunks 1 --kl-base {D}/base" },
    { "eval", "{M} --tasks {W}/tasks -n 1 --json", 0,
      .effects = { { "tasks", "out", "\"skill\": " }, { "json", "out", "\"skill\": " } } },

    /* bench */
    { "bench", "{M} -p 4 -n 2 -d 3 -r 2 -o csv --limits kept", 0,
      .effects = { { "n-prompt", "out", "^pp4 @ 3," }, { "n-gen", "out", "^tg2 @ 3," },
        { "n-depth", "out", "^tg2 @ 3," }, { "repetitions", "out", ",[0-9.]+;[0-9.]+$" },
        { "output", "out", "^test,n_prompt," } } },
    { "bench", "{M} -p 0 -n 1 -d 600 -r 1 -o csv --fill repeat --limits kept", 0,
      .effects = { { "fill", "out", "^tg1 @ 600,.*,repeat" } } },
    { "bench", "{M} -p 4 -n 0 -r 1 --limits kept --json", 0,
      .effects = { { "limits", "out", "\"dram_read_gb_s\": 20.0" },
                   { "json", "out", "\"tok_s_median\": " } } },
    { "bench", "--probe -o csv", 2, .effects = { { "probe", "code", "" } } },
    { "bench", "--probe-gpu", 5, .effects = { { "probe-gpu", "code", "" } } },
    { "bench", "{M} --sweep -d 16 -n 1 --limits kept", 0,
      .effects = { { "sweep", "out", "^. tg1 @ 14 " } } },
    { "bench", "{M} -d 16 -n 1 --limits kept --svg {D}/sweep.svg", 0,
      .effects = { { "svg", "sweep.svg", "polyline" } } },
    { "bench", "{M} -p 4 -n 0 -r 1 --limits kept --card", 0,
      .effects = { { "card", "out", "^pp4: [0-9]" } } },
    { "bench", "{M} -p 4 -n 0 -r 1 -t 1 -b 16 --limits kept --compare {W}/old.json", 6,
      .effects = { { "compare", "code", "" } } },
    { "bench", "{M} -p 4 -n 0 -r 1 -t 1 -b 16 --limits kept --compare {W}/old.json --max-loss 100", 0,
      .effects = { { "max-loss", "code", "" } } },

    /* quantize */
    { "quantize",
      "{M} {D}/q.gguf q8_0 --allow-requantize --tensor-type attn_output=q5_0 -t 1 --dry-run", 0,
      .effects = { { "tensor-type", "out", "Q5_0" }, { "dry-run", "out", "of computing on" },
                   { "threads", "out", "on 1 thread" } } },
    { "quantize", "{M} {D}/q.gguf q4_0 --allow-requantize --dry-run", 0,
      .effects = { { "allow-requantize", "code", "" } } },
    { "quantize", "{M} {D}/q.gguf --recipe {W}/recipe --allow-requantize --dry-run", 0,
      .effects = { { "recipe", "out", "Q5_0" } } },
    { "quantize", "{M} {D}/q.gguf iq4_nl --allow-requantize --pure --dry-run", 0,
      .effects = { { "pure", "out", "!Q5_K" } } },
    { "quantize", "{M} {D}/q.gguf q4_0 --allow-requantize --strict-mixture --dry-run", 0,
      .effects = { { "strict-mixture", "out", "^dense layers .* Q4_0$" } } },
    { "quantize", "{M} {D}/q.gguf q8_0 --only attn_output --allow-requantize", 0,
      .effects = { { "only", "err", "made, the others are copied" } } },
    { "quantize", "{M} {D}/q.gguf q8_0 --resume --verify --allow-requantize", 0,
      .effects = { { "resume", "err", "nothing to go on with" },
                   { "verify", "err", "read back" } } },
    { "quantize", "{M} {D}/q.gguf q8_0 --force --allow-requantize", 0,
      .effects = { { "force", "code", "" } },
      .before = "quantize {M} {D}/q.gguf q8_0 --allow-requantize" },
    { "quantize", "{M} {D}/q.gguf q8_0 --split-max-size 5M --allow-requantize", 0,
      .effects = { { "split-max-size", "q-00001-of-00003.gguf", "" } } },
    { "quantize", "{M} {D}/q.gguf q8_0 --allow-requantize --canary off", 0,
      .effects = { { "canary", "q.gguf", "!tandem.canary" } } },
    { "quantize", "{M} {D}/q.gguf q8_0 --allow-requantize --no-canary", 0,
      .effects = { { "no-canary", "q.gguf", "!tandem.canary" } } },
    { "quantize", "{W}/other.gguf {D}/q.gguf --fit-ram 4G -c 64 -t 2 --dry-run", 0,
      .effects = { { "fit-ram", "out", "4.0 GiB" },
                   { "ctx-size", "out", ", 7[0-9][.][0-9] MiB for the rest" } } },
    { "quantize", "{W}/other.gguf {D}/q.gguf --fit-vram 2G --dry-run", 0,
      .effects = { { "fit-vram", "code", "" } } },
    { "quantize", "{W}/other.gguf {D}/q.gguf --min-tps 900000 --dry-run", 4,
      .effects = { { "min-tps", "code", "" } } },
    { "quantize", "--collect-imatrix -m {W}/other.gguf -f LICENSE -c 32 --chunks 1 -o {D}/i.gguf", 0,
      .effects = { { "collect-imatrix", "code", "" }, { "output", "i.gguf", "" },
                   { "file", "code", "" },
                   { "ctx-size", "err", "1 windows of 32" }, { "chunks", "err", "^1 windows" } } },
    { "quantize", "--collect-imatrix -m {D}/none.gguf -f LICENSE --chunks 1 -o {D}/i.gguf", 3,
      .effects = { { "model", "code", "" } } },
    { "quantize", "{W}/other.gguf {D}/q.gguf q4_0 --imatrix {D}/i.gguf", 0,
      .effects = { { "imatrix", "q.gguf", "quantize.imatrix" } },
      .before = "quantize --collect-imatrix -m {M} -f LICENSE -c 32 --chunks 1 -o {D}/i.gguf" },
    { "quantize", "{W}/nan.gguf {D}/q.gguf q8_0 --allow-requantize --replace-nonfinite", 0,
      .effects = { { "replace-nonfinite", "code", "" } } },

    { "quantize", "{W}/older.gguf {D}/q.gguf q8_0 --keep-kv-b", 0,
      .effects = { { "keep-kv-b", "q.gguf", "blk.0.attn_kv_b" } } },

    /* convert */
    { "convert", "{H} -o {D}/c.gguf --type q8_0 --name 'A name' --pre llama-bpe", 0,
      .effects = { { "output", "c.gguf", "" }, { "name", "c.gguf", "A name" },
                   { "pre", "c.gguf", "llama-bpe" } } },
    { "convert", "{H} --type q8_0 -t 1 --dry-run --tensor-type attn_output=q5_0", 0,
      .effects = { { "dry-run", "code", "" }, { "threads", "out", "on 1 thread" },
                   { "type", "out", "^dense layers .* Q8_0$" },
                   { "tensor-type", "out", "Q5_0" } } },
    { "convert", "{H} --recipe {W}/recipe --dry-run", 0,
      .effects = { { "recipe", "out", "Q5_0" } } },
    { "convert", "{H} --type q4_k_m --imatrix {W}/none --dry-run", 3,
      .effects = { { "imatrix", "code", "" } } },
    { "convert", "{H} --type q4_k_m --pure --dry-run", 0,
      .effects = { { "pure", "out", "!Q6_K" } } },
    { "convert", "{H} -o {D}/c.gguf --resume --verify", 0,
      .effects = { { "resume", "err", "nothing to go on with" },
                   { "verify", "err", "read back" } } },
    { "convert", "{H} -o {D}/c.gguf --force", 0, .effects = { { "force", "code", "" } },
      .before = "convert {H} -o {D}/c.gguf" },
    { "convert", "{H} -o {D}/c.gguf --split-max-size 300K", 0,
      .effects = { { "split-max-size", "c-00001-of-00003.gguf", "" } } },
    { "convert", "{W}/broken -o {D}/c.gguf --type q8_0 --replace-nonfinite", 0,
      .effects = { { "replace-nonfinite", "code", "" } } },
    { "convert", "{H} -o {D}/c.gguf --canary off", 0,
      .effects = { { "canary", "c.gguf", "!tandem.canary" } } },
    { "convert", "{H} -o {D}/c.gguf --no-canary", 0,
      .effects = { { "no-canary", "c.gguf", "!tandem.canary" } } },

    /* sessions */
    { "sessions", "export one -o {D}/one.md", 0, .effects = { { "output", "one.md", "" } },
      .before = "chat {M} -p hi -n 1 --session one" },

    { "sessions", "list -v", 0, .effects = { { "verbose", "out", "Tandem demo.*1 branch" } },
      .before = "chat {M} -p hi -n 1 --session one" },
    { "sessions", "rm one -q", 0, .effects = { { "quiet", "err", "!removed" } },
      .before = "chat {M} -p hi -n 1 --session one" },

    /* quiet, verbose */
    { "inspect", "{M} -p hi -q", 0, .effects = { { "quiet", "err", "!." } } },
    { "plan", "{M} -t 1 -q", 0, .effects = { { "quiet", "out", "!measuring" } },
      .keys = "", .unmeasured = true },
    { "doctor", "-q", 0, .effects = { { "quiet", "out", "!^  memory reading" } } },
    { "plan", "{M} -v", 0, .effects = { { "verbose", "out", "Time of a token" } } },
    { "run chat eval bench", "{B} -v", 0, .effects = { { "verbose", "err", "activations" } } },
    { "run", "{B} --stats -q", 0, .effects = { { "quiet", "err", "!." } } },
    { "chat", "{B} -q", 0, .effects = { { "quiet", "err", "!stopped at" } } },
    { "eval", "{B} -q", 0, .effects = { { "quiet", "err", "!logits in" } } },
    { "bench", "{B} -q", 0, .effects = { { "quiet", "err", "!." } } },
    { "quantize", "{M} {D}/q.gguf q8_0 --allow-requantize -q", 0,
      .effects = { { "quiet", "err", "!." } } },
    { "quantize", "{M} {D}/q.gguf q8_0 --allow-requantize --dry-run -v", 0,
      .effects = { { "verbose", "out", "blk.0.attn_output.weight" } } },
    { "config", "show -q", 0, .effects = { { "quiet", "err", "!." } } },
    { "config", "show -v", 0, .effects = { { "verbose", "out", "^temp = " } } },
    { "doctor", "-v", 0, .effects = { { "verbose", "out", "why +every expert is split" } } },
    { "convert", "{H} --dry-run -v", 0, .effects = { { "verbose", "out", "blk.0" } } },
    { "convert", "{H} -o {D}/c.gguf -q", 0, .effects = { { "quiet", "err", "!." } } },
    { "inspect", "{M} --verify -v", 0, .effects = { { "verbose", "out", "blk.0.attn_norm" } } },

    /* everywhere */
    { EVERYTHING, "--help --color always", 0,
      .effects = { { "help", "out", "^.*usage: tandem" }, { "color", "out", "\033[[]1m" } } },
    { EVERYTHING, "--version", 0, .effects = { { "version", "out", "^tandem [0-9]" } } },
    { "doctor", "--json -v", 0, .effects = { { "json", "out", "\"findings\"" } } },
    { "sessions", "list --json", 0, .effects = { { "json", "out", "^\\[\\]|\\{" } } },
    { "config", "show --json", 0, .effects = { { "json", "out", "\"settings\"" } } },
};

/* What the models at hand cannot show is tried elsewhere: what needs a checkpoint of its own where one is
 * made; a dense model shows nothing of a mixture, whose plan quantize and convert share; without -c the
 * demo model is too small for --force to matter. */
static const struct {
    const char *command, *option, *file, *word;
} elsewhere[] = {
    { "convert", "no-mtp", "tests/test_convert.c", "--no-mtp" },
    { "convert", "allow-requantize", "tests/test_convert_v4.c", "--allow-requantize" },
    { "convert", "strict-mixture", "tests/test_quantize.c", "--strict-mixture" },
    { "bench", "force", "tests/test_placement.c", "force = true" },
    { "replay", "force", "tests/test_cli_replay.sh", "--force" },
};

/* Command lines that end with each code. */
static const struct {
    int code;
    const char *command, *line;
} codes[] = {
    { 0, "inspect", "{M}" },
    { 1, "run", "{M} -p x -o {D}/none/file" },
    { 2, "run", "{M} -p x --temp warm" },
    { 3, "run", "{D}/none.gguf -p x" },
    { 4, "run", "{M} -p x --ram 1M" },
    { 5, "run", "{M} -p x -ngl all" },
    { 6, "eval", "{M} --ppl LICENSE -c 32 --chunks 1 --max-ppl 1" },
};

#endif
