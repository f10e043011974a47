#!/bin/sh
# The command line as scripts meet it: what stands on stdout, what on stderr, and the exit code.
cd "$(dirname "$0")/.." || exit 1
tandem=${B:-build}/tandem
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
out=$work/out err=$work/err
passed=0 failed=0 skipped=0

# A home of its own: no configuration, no history of the user.
unset NO_COLOR
export HOME="$work" XDG_CONFIG_HOME="$work/config" XDG_STATE_HOME="$work/state"

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
for c in chat run inspect eval bench; do
    run 0 $c -h; prints "usage: tandem"; lines "$out" 24; silent "$err"
    run 0 $c --help; prints "--color"; silent "$err"
done
run 0 --version; head -n 1 "$out" | grep -q '^tandem [0-9]' || bad "first line of --version"
silent "$err"

begin "unknown commands and options"
run 2 nonsense-command; says "unknown command"; silent "$out"; lines "$err" 3
run 2 bnech; says "did you mean bench"
run 2 run --tempp 1 -p x; says "did you mean --temp"; lines "$err" 3
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
printf '# mine\ntemp = 0\nprobe = on\n[models]\nsmall = %s\ngone = /nonexistent/x.gguf\n' "$PWD/$model" \
    >"$XDG_CONFIG_HOME/tandem/config"
run 3 run gone -p x; says "/nonexistent/x.gguf"
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
run 0 run "$model" -p "Tell me a story." -c 48 --temp 1 --seed 3 --logit-bias 1-inf --json
[ "$(field finish_reason)" = context ] || bad "full context: $(cat "$out")"
run 2 run "$model" -f "$work/binary" -c 64; says "context"; silent "$out"

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

begin "thinking stays out of a pipe"
run 0 run "$model" -p "What is 12 + 30?" --think on --temp 0 -n 200
cp "$out" "$work/answer"; silent "$err"
run 0 run "$model" -p "What is 12 + 30?" --think on --temp 0 -n 200 --show-thinking stdout
[ "$(wc -c <"$out")" -gt "$(wc -c <"$work/answer")" ] || bad "--show-thinking stdout shows no more"
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
run 0 inspect "$model" --metadata general.architecture; [ "$(cat "$out")" = deepseek2 ] || bad "--metadata KEY"
run 2 inspect "$model" --metadata nonsense
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
cat >"$work/tasks" <<'TASKS'
{"skill":"quiet","messages":[{"role":"user","content":"What is 2+3?"}],"think":false,"answer":"","match":"no_think"}
{"skill":"any","messages":[{"role":"user","content":"What is 2+3?"}],"think":null,"answer":"","match":"contains"}
{"skill":"never","messages":[{"role":"user","content":"What is 2+3?"}],"think":false,"answer":"no such answer","match":"exact"}
TASKS
run 0 eval "$model" --tasks "$work/tasks" -n 8; prints "2/3"
run 0 eval "$model" --tasks "$work/tasks" -n 8 --json; prints '"skill": "never"'
echo '{"messages": 5}' >"$work/tasks"; run 3 eval "$model" --tasks "$work/tasks"; says "tasks:1"

begin "bench"
run 0 bench "$model" -p 8 -n 4 -r 2 -o json
for f in test tok_s tok_s_median dram_gb_s of_limit; do prints "\"$f\":"; done
prints '"pp8"'; prints '"tg4"'
run 0 bench "$model" -p 0 -n 3 -d 5 -r 1; prints "tg3 @ 5"
if [ -n "$TANDEM_TEST_LONG" ]; then # reads gigabytes
    run 0 bench --probe -o json; prints '"dram_read_gb_s":'
fi

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

begin "SIGTERM ends in order"
"$tandem" run "$model" -p "Tell me a story." --logit-bias 1-inf -c 32768 </dev/null >"$out" 2>"$err" &
sleep 1; kill -TERM $!; wait $!; code=$?
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
