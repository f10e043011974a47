#!/bin/sh
# The command line as scripts meet it: what stands on stdout, what on stderr, and the exit code.
cd "$(dirname "$0")/.." || exit 1
export TANDEM_GPU=none # a GPU library beside the program must not speak here
tandem=${B:-build}/tandem
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
out=$work/out err=$work/err
passed=0 failed=0 skipped=0

# A home of its own: no configuration, no history of the user.
unset NO_COLOR
export HOME="$work" XDG_CONFIG_HOME="$work/config" XDG_STATE_HOME="$work/state"
export XDG_CACHE_HOME="$work/cache"

model=models/demo.gguf
case=
ok=1
begin() { finish; case=$1; ok=1; }
finish() {
    [ -n "$case" ] || return
    if [ $ok = 1 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL  $case"; fi
    case=
}
bad() { [ $ok = 1 ] && echo "$case: $1"; ok=0; }

# run WANTED_CODE ARGUMENTS...: stdin is empty unless $input names a file
input=/dev/null
run() {
    wanted=$1; shift
    "$tandem" "$@" <"$input" >"$out" 2>"$err"
    code=$?
    [ $code = "$wanted" ] || bad "tandem $*: code $code, wanted $wanted: $(head -n 3 "$err")"
}
says() { grep -qF -e "$1" "$err" || bad "stderr lacks \"$1\": $(head -n 2 "$err")"; }
prints() { grep -qF -e "$1" "$out" || bad "stdout lacks \"$1\": $(head -n 2 "$out")"; }
lines() { n=$(wc -l <"$1"); [ "$n" -le "$2" ] || bad "$n lines, at most $2 wanted"; }
silent() { [ ! -s "$1" ] || bad "unexpected output: $(head -n 2 "$1")"; }
field() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p" "$out" | head -n 1; }

begin "help and version"
run 0 --help; prints "usage: tandem"; silent "$err"; lines "$out" 24
run 0 help run; prints "--temp F"; silent "$err"
for c in $("$tandem" help --commands); do
    COLUMNS=80 run 0 $c -h; prints "usage: tandem"; lines "$out" 24; silent "$err"
    [ "$(wc -L <"$out")" -le 80 ] || bad "tandem $c -h: wider than 80 columns"
    run 0 $c --help; prints "--color"; silent "$err"
done
run 0 --version; head -n 1 "$out" | grep -q '^tandem [0-9]' || bad "first line of --version"
silent "$err"

begin "doctor: a machine is no failure, a missing model is one"
run 0 doctor; prints "memory reading"; prints "tandem bench --probe"; prints "could be better"; silent "$err"
run 0 doctor "$model"; prints "model's disk"
run 3 doctor "$work/nothere.gguf"; silent "$out"
if ! "$tandem" --version | grep -q 'JSON: left out'; then
    run 0 doctor --json
    prints '"topic": "memory channels"'; prints '"gain": null'; prints '"n_poor"'
fi

begin "unknown commands and options"
run 2 nonsense-command; says "unknown command"; silent "$out"; lines "$err" 3
run 2 bnech; says "did you mean bench"
run 2 help bnech; says "did you mean bench"
run 2 run --tempp 1 -p x; says "did you mean --temp"; lines "$err" 3
run 2 run --jsn -p x; says "did you mean --json"; run 2 plan --jsno; says "did you mean --json"
run 2 run -n2 -p x; says "did you mean -n 2?"; run 2 run -p=x; says "did you mean -p x?"
run 2 run -ngl=all -p x; says "did you mean -ngl all?"
run 2 run --probe; says "belongs to tandem bench"
run 2 run -hf a/b -p x; says "not one of ours"
run 2 run -p; says "wants a value"
run 2 run --json=yes -p x; says "takes no value"
run 2 help nonsense; silent "$out"

begin "values that are none"
for o in --temp --top-k --top-p --min-p --seed -c -t -b -n --repeat-penalty --presence-penalty; do
    for v in "" x 1e999 nan -7777777 9223372036854775808 "1 2" 3x; do
        run 2 run "$o" "$v" -p x; says "option $o"
    done
done
for v in 0 1+ +1 x-1 1-nan 99999999999+1; do run 2 run --logit-bias "$v" -p x; says "--logit-bias"; done
run 2 run --think maybe -p x; run 2 run --cpu-isa mmx -p x; run 2 run --numerics mine -p x
run 2 bench -p 1,,2; run 2 bench -o xml; run 2 eval; run 2 inspect a b c

begin "environment and configuration file"
mkdir -p "$XDG_CONFIG_HOME/tandem"
TANDEM_TEMP=hot run 2 run -p x; says "TANDEM_TEMP"
echo 'tempp = 1' >"$XDG_CONFIG_HOME/tandem/config"
run 2 run -p x; says "config:1"; says "tempp"
run 0 run --help; prints "--temp F"; run 0 --version; run 0 help plan; silent "$err"
printf '# mine\ntemp = 0\nprobe = on\n[models]\nsmall = %s\ngone = /nonexistent/x.gguf\n' "$PWD/$model" \
    >"$XDG_CONFIG_HOME/tandem/config"
run 3 run gone -p x; says "/nonexistent/x.gguf"
run 3 gone; says "/nonexistent/x.gguf"; run 2 goen; says "unknown command"
rm -r "$XDG_CONFIG_HOME"

begin "paths that are no models"
: >"$work/empty.gguf"
mkdir "$work/folder"
printf 'GGUF\3\0\0\0\377\377\377\377\377\377\377\177\1\0\0\0\0\0\0\0' >"$work/absurd.gguf"
printf '<html><body>404</body></html>\n' >"$work/page.gguf"
head -c 100000 /dev/zero >"$work/zeros.gguf"
mkfifo "$work/fifo.gguf"
: >"$(printf '%s/a\033[31mb.gguf' "$work")"
for f in /nonexistent/x.gguf "$work"/empty.gguf "$work"/folder "$work"/absurd.gguf "$work"/page.gguf \
    "$work"/zeros.gguf "$work"/fifo.gguf /dev/null "$work"/a*b.gguf; do
    for c in "run -p x" chat inspect "bench -r 1" "inspect -q"; do
        # shellcheck disable=SC2086
        run 3 $c "$f"; silent "$out"; lines "$err" 1
        grep -qF "$f: $f" "$err" && bad "the path twice: $(cat "$err")"
        grep -q "$(printf '\033')" "$err" && bad "an escape byte reached stderr"
    done
done
run 3 run deepseek-ai/DeepSeek-V3 -p x; says "nothing is downloaded"

why=
[ -f "$model" ] || why="$model, which is not there"
"$tandem" --version | grep -q 'JSON: left out' && why="libraries that LIBS=none leaves out"
if [ -n "$why" ]; then
    finish
    echo "skipped  everything that needs $why"
    echo "$passed passed, $failed failed, 1 skipped"
    exit $((failed > 0))
fi

begin "a model cut short"
size=$(wc -c <"$model")
for part in 4 24 1000 100000 $((size / 2)) $((size - 1)); do
    head -c $part "$model" >"$work/cut.gguf"
    run 3 run "$work/cut.gguf" -p x; silent "$out"; lines "$err" 1
done

begin "plan tells where everything goes and how fast it will be"
run 0 plan "$model" -t 1; silent "$err"
for word in "place" "read per token" "routed experts" "cache for" "decode" "prefill" "  fits."; do
    prints "$word"
done
cp "$work/cache/tandem/machine" "$work/machine"
run 0 plan "$model" -t 1 --explain; prints "one token"; prints "layout"
cmp -s "$work/cache/tandem/machine" "$work/machine" || bad "a known machine is measured again"
run 0 plan "$model" -t 1 --json; prints '"no_gpu": "GPU library'
for f in decode_tok_s prefill_tok_s serial_bound_tok_s bound_by fits parts layers ways_out flags; do
    prints "\"$f\":"
done
run 0 plan "$model" -t 1 --compare; prints "| this file"; prints " -c   2048 |"; prints "6.6 MiB"
run 0 plan "$model" -t 1 -c 640 --emit; lines "$out" 1; prints "-c 640"
# shellcheck disable=SC2046
run 0 run "$model" $(cat "$out") -p hi -n 2 --no-think -q

begin "plan for another machine"
run 0 plan "$model" --what-if "ram=512G,bw=460,vram=24G,pcie=25,vbw=1000" --ctx-size 2048 -cmoe
prints "GPU"; prints "left free"; prints "some rates are estimates"
run 0 plan "$model" --vram 8G -ngl all -t 1; prints "GPU"
run 2 plan "$model" --what-if "ram=512G,speed=3"; says "speed=3"
run 2 plan "$model" -ot "attn=tpu"; says "-ot"
run 2 plan "$model" -ot "(=cpu"; says "-ot"
cp "$model" "$work/a model's.gguf"
run 0 plan "$work/a model's.gguf"; prints "chat '$work/a model'\\''s.gguf' -c"
run 4 plan "$work/a model's.gguf" --ram 1M; prints "chat '$work/a model'\\''s.gguf' --ram "
says "no RAM may be used"; ram=$(sed -n 's/.* --ram \([0-9]*M\)$/\1/p' "$out")
run 0 run "$work/a model's.gguf" --ram "$ram" -p x -n 1
rm "$work/a model's.gguf"
run 0 plan "$model" -ot "exps=cpu,attn_nowhere=cpu"; says "no tensor matches attn_nowhere=cpu"; lines "$err" 1
run 4 plan "$model" --min-tps 900000 -t 1; says "no context that fits"

begin "what does not fit is refused before loading, with ways out"
run 4 plan "$model" --ram 140M -c 1000000 -t 1; prints "Ways out:"; prints " 1. "; says "does not fit"
run 4 run "$model" --ram 140M -c 1000000 -p x; says "does not fit"; says " 1. "; says "tandem chat"
silent "$out"

begin "flags of the GPU where there is none"
for c in plan "run -p x" "bench -n 1 -p 0"; do
    # shellcheck disable=SC2086
    run 5 $c "$model" -ngl all; says "no GPU"; lines "$err" 1; silent "$out"
done
for c in "run -p hi --no-think" "bench -p 0"; do # a card is chosen where none is
    # shellcheck disable=SC2086
    run 0 $c "$model" -n 2 --device 3; says "running on the CPU: "
done
run 0 plan "$model" --device 3; prints "| GPU library: "
run 5 run "$model" -p x --gpu on; run 5 run "$model" -p x --gpu-experts 10%
run 0 run "$model" -p hi -n 2 --no-think -q -ngl auto -cmoe -ncmoe 3 --gpu-experts auto -ot "exps=CPU" -fitt 512
run 0 run "$model" -p hi -n 2 --no-think -q -ctk f32; run 2 run "$model" -p x -ctk q9
run 2 run "$model" -p x -ngl some; run 2 run "$model" -p x --gpu-experts 200%; run 2 run "$model" --vram x

short="-n 12 --temp 0 --no-think"
begin "run prints the answer alone"
run 0 run "$model" -p "What is 2+3?" $short; silent "$err"
cp "$out" "$work/plain"
run 0 run "$model" -p "What is 2+3?" $short --json; lines "$out" 1
for f in text prompt_tokens completion_tokens prefill_tok_s decode_tok_s finish_reason seed; do
    prints "\"$f\":"
done
[ "$(field text)" = "$(cat "$work/plain")" ] || bad "text and --json differ: $(field text)"
"$tandem" run "$model" -p "What is 2+3?" $short 2>"$err" </dev/null | cat >"$out"
cmp -s "$out" "$work/plain" || bad "differs in a pipe"
run 0 run -m "$model" "What is 2+3?" $short -t 1; cmp -s "$out" "$work/plain" || bad "-m and a positional"
run 0 run "$model" "What is 2+3?" $short -t 3; cmp -s "$out" "$work/plain" || bad "three threads"
run 0 run -b 1 $short "$model" -- "What is 2+3?"; cmp -s "$out" "$work/plain" || bad "--"

begin "prompt, standard input and files, in this order"
printf 'first\n\nsecond\n\nthird' >"$work/joined"
echo third >"$work/third"
input=$work/joined run 0 run "$model" $short --json
tokens=$(field prompt_tokens) text=$(field text)
echo second >"$work/second"
input=$work/second run 0 run "$model" -p first -f "$work/third" $short --json
[ "$(field prompt_tokens)" = "$tokens" ] && [ "$(field text)" = "$text" ] || bad "parts are joined otherwise"
run 0 run "$model" -f "$work/joined" $short --json; [ "$(field text)" = "$text" ] || bad "-f"
input=$work/joined run 0 run "$model" -f - $short --json; [ "$(field text)" = "$text" ] || bad "-f -"
run 2 run "$model"; says "no prompt"; silent "$out"
run 3 run "$model" -f "$work/none"; says "none"
run 3 run "$model" -f "$work"; says "directory"
head -c 3000 /dev/urandom >"$work/binary"
run 0 run "$model" -f "$work/binary" -n 1 -c 8192

begin "how an answer ends"
run 0 run "$model" -p "Tell me a story." -n 5 --temp 0 --json
[ "$(field finish_reason)" = length ] && [ "$(field completion_tokens)" = 5 ] || bad "-n 5: $(cat "$out")"
run 0 run "$model" -p "Tell me a story." -n 0 --temp 0 --json; [ "$(field completion_tokens)" = 0 ] || bad "-n 0"
run 0 run "$model" -p "Tell me a story." -n 60 --temp 0
word=$(cut -d' ' -f3 "$out")
run 0 run "$model" -p "Tell me a story." -n 60 --temp 0 --stop " $word" --json
[ "$(field finish_reason)" = stop ] || bad "--stop \" $word\": $(cat "$out")"
case $(field text) in *"$word"*) bad "the stop text was shown" ;; esac
printf 'root ::= "yes" | "no"\n' >"$work/yesno"; printf 'root ::= "a"\n| x\n' >"$work/unknown"
run 0 run "$model" -p "Is it?" --grammar "$work/yesno" --think 4 --json
case $(field text) in yes | no) ;; *) bad "--grammar: $(cat "$out")" ;; esac
run 0 run "$model" -p "Is it?" --raw -j '{"enum":[17]}'; [ "$(cat "$out")" = 17 ] || bad "-j: $(cat "$out")"
run 2 run "$model" -p x --grammar "$work/unknown"; says "line 2, column 3"; silent "$out"
run 3 run "$model" -p x --grammar "$work/none"; run 3 run "$model" -p x -j "$work/none"
run 2 run "$model" -p x -j '{"pattern":"a"}'; says "pattern"
run 2 run "$model" -p x -j '{}' --grammar "$work/yesno"; says "both"
run 0 run "$model" -p "Tell me a story." -c 48 --temp 1 --seed 3 --logit-bias 1-inf --json
[ "$(field finish_reason)" = context ] || bad "full context: $(cat "$out")"
run 2 run "$model" -f "$work/binary" -c 64; says "context"; silent "$out"

begin "guesses ahead"
story="run $model -n 40 --temp 0.9 --seed 5 --json -p"
run 0 $story "Tell me a story." --draft off; text=$(field text)
grep -q '"draft"' "$out" && bad "--draft off reports guesses"
for length in auto 1 2 3; do
    run 0 $story "Tell me a story." --draft $length; prints '"draft": {"length": '; prints '"accepted": ['
    [ "$(field text)" = "$text" ] || bad "--draft $length says something else: $(cat "$out")"
done
prints '"length": 3, "reason": "fixed"'; prints '"tokens_per_step": '
run 0 $story "Tell me a story."; [ "$(field text)" = "$text" ] || bad "the default says something else"
prints '"draft": {'
run 0 run "$model" -p "Tell me a story." -n 20 --draft 2 --stats; says "tokens a step"; says "2 at a time, as told"
printf 'What is 2 + 3?\n/stats\n' >"$work/asks"
input=$work/asks run 0 chat "$model" --draft 2; says "guesses   "; says "2 at a time, as told"
input=$work/asks run 0 chat "$model" --draft off; grep -q "guesses  " "$err" && bad "/stats without guesses"
run 2 run "$model" -p x --draft 4; says "auto|off|1|2|3"

begin "sampling"
run 0 run "$model" -p "Tell me a story." -n 20 --temp 1 --seed 7; cp "$out" "$work/seed7"
run 0 run "$model" -p "Tell me a story." -n 20 --temp 1 --seed 7; cmp -s "$out" "$work/seed7" || bad "same seed"
run 0 run "$model" -p "Tell me a story." -n 20 --temp 1 --top-k 1; cp "$out" "$work/top1"
run 0 run "$model" -p "Tell me a story." -n 20 --temp 0; cmp -s "$out" "$work/top1" || bad "top-k 1 is greedy"
run 0 run "$model" -p "hi" -n 3 --logit-bias 100+1000000 --temp 0 --raw; cp "$out" "$work/biased"
TANDEM_TEMP=0 run 0 run "$model" -p "Tell me a story." -n 20; cmp -s "$out" "$work/top1" ||
    bad "TANDEM_TEMP"
run 2 run "$model" -p hi --logit-bias 99999999+1; says "--logit-bias"
run 2 run "$model" -p hi --template nonsense; says "there are"
run 0 run "$model" -p hi $short -fa on --jinja; says "no effect"

begin "--deterministic: the same bits however much is read at once, with whatever before it"
head -c 1200 models/demo/heldout.txt >"$work/long"
input=$work/long run 0 inspect "$model" --tokens -; cp "$out" "$work/ids"
bits() { run 0 eval "$model" --ids "$work/ids" --logits "$work/logits" "$@"; cksum <"$work/logits"; }
alone=$(bits -b 1)
for o in "-b 7" "-b 64 -t 1" "-t 3"; do
    # shellcheck disable=SC2086
    [ "$(bits --deterministic $o)" = "$alone" ] || bad "$o: other bits"
done
rm "$work/logits"
answer() {
    run 0 run "$model" -f "$work/long" -p "$1" --deterministic --temp 1 --seed 5 -n 30 --logprobs 1 --json "$2" "$3" --raw
    sed 's/.*"logprobs": \(.*\), "prompt_tokens".*/\1/' "$out"
}
afresh=$(answer Sum. --draft off)
answer Read. --prefix-cache "$work/prefix" >/dev/null
read_afresh=$(answer Read. --draft off)
[ "$(answer Read. --prefix-cache "$work/prefix")" = "$read_afresh" ] || bad "a cache gives other bits"
grep -q '"cached_tokens": 0' "$out" && bad "nothing came from the cache"
[ "$(answer Sum. --draft 3)" = "$afresh" ] || bad "guesses give other bits"

begin "thinking stays out of a pipe"
run 0 run "$model" -p "What is 12 + 30?" --think on --temp 0 -n 200
cp "$out" "$work/answer"; silent "$err"
run 0 run "$model" -p "What is 12 + 30?" --think on --temp 0 -n 200 --show-thinking stdout
[ "$(wc -c <"$out")" -gt "$(wc -c <"$work/answer")" ] || bad "--show-thinking stdout shows no more"
run 2 run "$model" -p x --show-thinking fold; says "full|off|stdout"; silent "$out"
TANDEM_SHOW_THINKING=fold run 0 run "$model" -p "What is 12 + 30?" --think on --temp 0 -n 200
cmp -s "$out" "$work/answer" || bad "a setting for chats shows in run"; silent "$err"
# The demo's file asks for thinking although its chat format leaves it out.
run 0 run "$model" -p "What is 27 + 45?" --temp 0 --show-thinking stdout
grep -q 'carry 1' "$out" && [ "$(tail -n 1 "$out")" = 72 ] || bad "What is 27 + 45? $(cat "$out")"
run 0 inspect "$model" --prompt hi
[ "$(head -n 1 "$out")" = '<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜><think>' ] ||
    bad "the prompt does not open the thinking that the file asks for"
run 0 run "$model" -p "What is 12 + 30?" --think 3 --temp 0 -n 200 --json
[ "$(field thinking_tokens)" -le 8 ] || bad "--think 3: $(field thinking_tokens) tokens"

begin "inspect"
run 0 inspect "$model"; prints "deepseek2"; silent "$err"
run 0 inspect "$model" --json; prints '"tensors"'; prints '"offset"'; prints '"architecture": "deepseek2"'
run 0 inspect "$model" --tensors 'blk\.0\.attn_norm'; lines "$out" 1; prints F32
run 2 inspect "$model" --tensors '('; says "--tensors"
run 0 inspect "$model" --tensors nonsense; silent "$out"; says "no tensor"
run 0 inspect "$model" --tensors 'blk\.0\.attn_norm' --json; [ "$(grep -c '"offset"' "$out")" = 1 ] || bad "--tensors RE --json"
prints '"n_tensors": 48'; prints '"pre": "deepseek-v3"'
run 0 plan "$model" -t 1 --compare --json; prints '"type": "q4_k_m"'; prints '"context": 2048'
run 0 inspect "$model" --metadata general.architecture; [ "$(cat "$out")" = deepseek2 ] || bad "--metadata KEY"
run 2 inspect "$model" --metadata nonsense; says "--metadata lists"
run 2 inspect "$model" --metadata general.nam; says "did you mean general.name"
run 2 quantize "$model" "$work/none.gguf" q4_k_mm; says "did you mean Q4_K_M?"; lines "$err" 1
run 2 quantize "$model" "$work/none.gguf" DS-IQ22; says "did you mean ds-iq2?"
run 3 convert "$work/folder" -o "$work/none.gguf"; says "no checkpoint: neither"
run 0 inspect --metadata "$model"; prints tokenizer.ggml.tokens
printf 'Hello, world!' >"$work/text"
input=$work/text run 0 inspect "$model" --tokens -; lines "$out" 1; cp "$out" "$work/ids"
run 0 inspect "$model" --tokens 'Hello, world!'; cmp -s "$out" "$work/ids" || bad "--tokens - and --tokens TEXT"
run 0 inspect "$model" --tokens '<｜User｜>'; [ "$(wc -w <"$out")" = 1 ] || bad "special token: $(cat "$out")"
run 0 inspect "$model" --tokens '<｜User｜>' --no-special; [ "$(wc -w <"$out")" -gt 1 ] || bad "--no-special"
run 0 inspect "$model" --prompt hi -sys "Be terse." --think off
[ "$(head -n 1 "$out")" = '<｜begin▁of▁sentence｜>Be terse.<｜User｜>hi<｜Assistant｜></think>' ] ||
    bad "--prompt: $(head -n 1 "$out")"
tail -n 1 "$out" | grep -Eq '^[0-9 ]+$' || bad "ids of --prompt"

begin "inspect: is it sound, and what is different"
run 0 inspect "$model" --verify; prints "every value is finite; checksum of all"; lines "$out" 1; silent "$err"
sum=$(sed 's/.* //' "$out")
run 0 inspect "$model" --hash; [ "$(tail -n 1 "$out")" = "$sum  (all)" ] || bad "--hash: $(tail -n 1 "$out")"
run 0 inspect "$model" --verify --json; prints "\"crc32c\": \"$sum\""; prints '"n_bad": 0'; prints '"rms":'
run 0 inspect "$model" --diff "$model"; silent "$out"; silent "$err"
run 0 inspect "$model" --diff "$model" --json; prints '"same": true'
run 3 inspect "$model" --diff "$work/none.gguf"; run 3 inspect "$model" --diff "$work/empty.gguf"
# An expert's block of Q4_K gets a scale that is NaN.
at=$("$tandem" inspect "$model" --json | tr '\n' ' ' | sed 's/}/}\n/g' |
    sed -n 's/.*"name": "blk.2.ffn_up_exps.weight".*"offset": \([0-9]*\).*/\1/p')
cp "$model" "$work/nan.gguf"
printf '\377\177' | dd of="$work/nan.gguf" bs=1 seek=$((at + 144 * 5)) conv=notrunc 2>/dev/null
run 6 inspect "$work/nan.gguf" --verify; says "1 of "; lines "$out" 1
prints "damaged  blk.2.ffn_up_exps.weight"
run 6 inspect "$work/nan.gguf" --verify --json; prints '"n_bad": 1'; prints '"bad_element": 1280'
run 1 inspect "$model" --diff "$work/nan.gguf"; prints "~ blk.2.ffn_up_exps.weight: Q4_K"; lines "$out" 1
says "differ in 1 place"
run 0 quantize "$model" "$work/q8.gguf" q8_0 --allow-requantize
run 1 inspect "$model" --diff "$work/q8.gguf"; prints "~ general.file_type = "
grep -q '^~ blk.2.ffn_up_exps.weight: Q4_K .* -> Q8_0 .*, rms difference .* % of' "$out" || bad "$(tail -n 2 "$out")"
rm -f "$work/q8.gguf" "$work/nan.gguf"

begin "eval"
run 0 inspect "$model" --json
vocab=$(field n_vocab)
run 0 eval "$model" --ids "$work/ids" --logits "$work/logits.f32"; silent "$out"
n=$(wc -w <"$work/ids")
[ "$(wc -c <"$work/logits.f32")" = $((n * vocab * 4)) ] || bad "size of the logits"
run 0 eval "$model" --ids "$work/ids" --logits "$work/again.f32" -b 1 --act f32 --compat llamacpp
[ "$(wc -c <"$work/again.f32")" = $((n * vocab * 4)) ] || bad "size of the logits, one by one"
echo "5 x 7" >"$work/wrong"; run 3 eval "$model" --ids "$work/wrong" --logits "$work/no.f32"
echo "5 99999999" >"$work/wrong"; run 3 eval "$model" --ids "$work/wrong" --logits "$work/no.f32"
run 1 eval "$model" --ids "$work/ids" --logits "$work/no/such/folder"
[ ! -e "$work/no.f32" ] && [ -z "$(ls "$work" | grep part)" ] || bad "a part of a file was left behind"
run 2 eval "$model" --ids "$work/ids"
cat README.md LICENSE >"$work/prose" 2>/dev/null
run 0 eval "$model" --ppl "$work/prose" --json -c 128 --chunks 2; prints '"ppl":'; prints '"n_scored": 126'
run 6 eval "$model" --ppl "$work/prose" -c 128 --chunks 1 --max-ppl 1.01; says "max-ppl"
run 2 eval "$model" --kl-base "$work/base.kl"; says "--ppl TEXT"
run 0 eval "$model" --ppl "$work/prose" -c 128 --chunks 2 --kl-base "$work/base.kl"; prints perplexity
run 0 eval "$model" --kl "$work/base.kl"; prints "KL divergence    0.000000"; prints "100.00 %"; silent "$err"
run 0 eval "$model" --kl "$work/base.kl" --json; prints '"n_scored": 126'
run 0 eval "$model" --kl "$work/base.kl" --chunks 1 --json; prints '"n_scored": 63'
run 6 eval "$model" --kl "$work/base.kl" --act f32 --max-kl 0; says "max-kl"
run 3 eval "$model" --kl "$model"; says "not a file of eval --kl-base"; silent "$out"
run 3 eval "$model" --kl "$work"; run 3 eval "$model" --kl "$work/fifo.gguf"
run 1 eval "$model" --ppl "$work/prose" -c 128 --chunks 1 --kl-base "$work/no/such/folder"
[ -z "$(ls "$work" | grep part)" ] || bad "a part of a file was left behind"
cat >"$work/tasks" <<'TASKS'
{"skill":"quiet","messages":[{"role":"user","content":"What is 2+3?"}],"think":false,"answer":"","match":"no_think"}
{"skill":"any","messages":[{"role":"user","content":"What is 2+3?"}],"think":null,"answer":"","match":"contains"}
{"skill":"never","messages":[{"role":"user","content":"What is 2+3?"}],"think":false,"answer":"no such answer","match":"exact"}
TASKS
run 0 eval "$model" --tasks "$work/tasks" -n 8; prints "2/3"
run 0 eval "$model" --tasks "$work/tasks" -n 8 --json; prints '"skill": "never"'
echo '{"messages": 5}' >"$work/tasks"; run 3 eval "$model" --tasks "$work/tasks"; says "tasks:1"

begin "bench: rows for programs"
kept="--limits kept" # a quick probe once, its profile afterwards: tests need no honest limits
run 0 bench "$model" -p 8 -n 4 -r 2 -o json $kept
for f in test tok_s tok_s_median dram_gb_s of_limit threads batch limit bytes_per_token page_faults \
    involuntary_switches dram_read_gb_s int8_gops huge_page_share commit cpu_isa logits_hash; do
    prints "\"$f\":"
done
prints '"pp8"'; prints '"tg4"'; prints '"dram_gb_s": null'
[ "$(grep -c '"test":' "$out")" = 2 ] || bad "rows: $(grep '"test":' "$out")"
grep -qx 'threads = [0-9]*' "$work/cache/tandem/machine" || bad "no profile of the machine"
cp "$out" "$work/old.json"
run 0 bench "$model" -p 8 -n 4 -r 2 --json $kept; prints '"tg4"'
run 0 bench "$model" -p 8 -n 4 -r 3 -o jsonl $kept; lines "$out" 2
[ "$(grep -c '^{"test": .*"tok_s": \[[^,]*,[^,]*,[^,]*\]}$' "$out")" = 2 ] || bad "jsonl: $(cat "$out")"
run 0 bench "$model" -p 8 -n 4 -r 2 -t 1,2 -b 4,16 -o csv $kept; lines "$out" 9
[ "$(awk -F, 'NR > 1 { print $1, $5, $6 }' "$out" | tr '\n' ';')" = \
    "pp8 1 4;tg4 1 4;pp8 1 16;tg4 1 16;pp8 2 4;tg4 2 4;pp8 2 16;tg4 2 16;" ] || bad "csv: $(cat "$out")"
head -n 1 "$out" | grep -q '^test,n_prompt,n_gen,n_depth,threads,batch,tok_s_median,.*,logits_hash,tok_s$' ||
    bad "csv head: $(head -n 1 "$out")"
# The same bits for any number of threads.
column=$(head -n 1 "$out" | tr ',' '\n' | grep -nx logits_hash | cut -d: -f1)
[ "$(sed 's/"[^"]*"/text/g' "$out" | awk -F, -v h="$column" 'NR > 1 { print $1, $6, $h }' | sort -u |
    wc -l)" = 4 ] || bad "hashes differ: $(cat "$out")"

begin "bench: the table"
run 0 bench "$model" -p 0 -n 3 -d 5 -r 1 $kept; prints "tg3 @ 5"; prints "filled by a real prefill"
[ "$(head -n 1 "$out")" = \
    "| test           | tok/s        | of limit | CPU GB/s | GPU busy | J/token |" ] || bad "head"
grep -qE '^\| tg3 @ 5        \| +[0-9.]+ \| +[0-9]+ % \| +[0-9.]+ \| +- \| +[-0-9.]+ \|$' "$out" || bad "row"
for w in "commit " " node" "BW_d " "C 0.001 GB" "G 0.004 GB" "serial " "page faults " "logits "; do prints "$w"; done
run 0 bench "$model" -p 4,8 -n 0 -r 2 -t 1,2 $kept; prints "| pp4 -t 1 "; prints "| pp8 -t 2 "; prints " ± "
run 0 bench "$model" -p 4 -n 2 -r 1 --card $kept; prints "tandem "; prints "pp4: "; prints "tg2: "; lines "$out" 4
run 2 bench "$model" -p 0 -n 0 $kept; says "no tests"
run 2 bench "$model" -t 99999 $kept; run 2 bench "$model" -b 65000 $kept; run 2 bench -b x; run 2 bench -r 0; run 2 bench --max-loss 101

begin "bench: speed over context"
LC_ALL=C run 0 bench "$model" --sweep -d 64 -n 2 --svg "$work/sweep.svg" $kept
prints "| tg2 @ 64 "; prints "| pp8 @ 56 "; prints "decode tok/s"; prints "tokens of context"; prints "*"
[ "$(grep -c '^| tg2' "$out")" = 9 ] || bad "rows: $(grep -c '^| tg2' "$out")"
grep -q '<polyline' "$work/sweep.svg" || bad "no curve in the SVG file"

begin "--heat counts what the experts did, as a table and as a picture"
picked() { awk -F, 'NR > 1 { n += $3 } END { print n }' "$1"; }
run 0 run "$model" -p "What is 1 + 1?" -n 4 --heat "$work/heat.csv"
[ "$(head -1 "$work/heat.csv")" = "layer,expert,picks" ] || bad "the table has no head"
[ "$(picked "$work/heat.csv")" -gt 0 ] || bad "no picks in the table"
run 0 chat "$model" -p "What is 1 + 1?" -n 4 --heat "$work/heat.svg" </dev/null
grep -q '</svg>' "$work/heat.svg" || bad "no picture"
run 0 bench "$model" -p 8 -n 2 -r 1 --heat "$work/heat.csv" $kept
[ "$(picked "$work/heat.csv")" -gt 0 ] || bad "no picks in bench's table"
run 1 run "$model" -p x -n 1 --heat "$work/none/heat.csv"; says "none/heat.csv"
if locale -a 2>/dev/null | grep -qi '^c.utf-\{0,1\}8$'; then
    LC_ALL=C.UTF-8 run 0 bench "$model" --sweep -d 64 -n 2 $kept; prints "└"
fi
run 0 bench "$model" --sweep -d 16 -n 1 -o csv $kept; lines "$out" 18

begin "bench: graded against an older file"
sed 's/"tok_s_median": [0-9.]*/"tok_s_median": 0.001/' "$work/old.json" >"$work/slow.json"
sed 's/"tok_s_median": [0-9.]*/"tok_s_median": 1e12/' "$work/old.json" >"$work/fast.json"
run 0 bench "$model" -p 8 -n 4 -r 1 --compare "$work/slow.json" $kept; prints "tg4: 0.00 -> "
run 6 bench "$model" -p 8 -n 4 -r 1 --compare "$work/fast.json" --max-loss 90% $kept; says "slower than"
run 6 bench "$model" -p 9 -n 0 -r 1 --compare "$work/fast.json" $kept; says "none of these tests"
run 3 bench "$model" -p 8 -n 0 -r 1 --compare "$work/none.json" $kept
run 3 bench "$model" -p 8 -n 0 -r 1 --compare "$model" $kept

begin "bench: the machine alone"
if [ -n "$TANDEM_TEST_LONG" ]; then # reads gigabytes
    run 0 bench --probe -o json; prints '"dram_read_gb_s":'; prints '"of_stream":'; prints '"tile_gops":'
    run 0 bench --probe; prints "memory read GB/s"; prints "tokens per expert"
    run 0 bench "$model" -p 8 -n 4 -r 1; prints "tg4"
fi
run 2 bench --probe -o csv

begin "standard streams that are closed, full or gone"
"$tandem" run "$model" -p "Tell me a story." -n 5 </dev/null >/dev/full 2>"$err"
[ $? = 1 ] || bad "/dev/full"; says "No space left"
("$tandem" run "$model" -p "Tell me a story." -n 300 --logit-bias 1-inf </dev/null 2>"$err"
    echo $? >"$work/code") | head -c 1 >/dev/null
[ "$(cat "$work/code")" = 141 ] || bad "a reader that went away: $(cat "$work/code")"
silent "$err"
"$tandem" run "$model" -p hi $short <&- >"$out" 2>"$err" || bad "closed stdin"
"$tandem" run "$model" -p hi $short </dev/null >"$out" 2>&- || bad "closed stderr"
"$tandem" run "$model" -p hi $short </dev/null >&- 2>"$err" || bad "closed stdout"

begin "small limits"
limited() { (ulimit "$1" "$2" && exec "$tandem" run "$model" -p hi $short </dev/null >"$out" 2>"$err"); }
"$tandem" run "$model" -p hi $short </dev/null >"$work/unlimited"
for kib in 64 300; do # raised where that is allowed; threads have stacks of their own
    (ulimit -S -s $kib && exec "$tandem" run "$model" -p hi $short </dev/null >"$out" 2>"$err") ||
        bad "a stack of $kib KiB: $(cat "$err")"
    cmp -s "$out" "$work/unlimited" || bad "a stack of $kib KiB: $(cat "$out")"
done
limited -n 16 || bad "16 descriptors: $(cat "$err")"
if ! nm -D "$tandem" 2>/dev/null | grep -q __asan; then
    limited -v 40000; code=$?
    [ $code = 4 ] || bad "40 MB of address space: code $code"; says "out of memory"
fi

begin "SIGTERM ends in order"
: >"$out"
"$tandem" run "$model" -p "Tell me a story." --logit-bias 1-inf -c 32768 </dev/null >"$out" 2>"$err" &
tries=0 # until it answers: signals are handled then
until [ -s "$out" ] || [ $((tries += 1)) -gt 300 ]; do sleep 0.2; done
kill -TERM $!; wait $!; code=$?
[ $code = 143 ] || bad "code $code"

begin "chat reads a pipe to its end"
printf 'What is 2+3?\n/ctx\n/nonsense\n"""\na block\n"""\n' >"$work/talk"
input=$work/talk run 0 chat "$model" -n 8 --temp 0
[ "$(wc -l <"$out")" -ge 2 ] || bad "two answers on stdout: $(cat "$out")"
says "context:"; says "unknown command"
run 0 chat "$model"; silent "$out"
input=$work/talk run 0 "$model" -n 8 --temp 0
finish

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
