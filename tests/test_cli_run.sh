#!/bin/sh
# tandem run beside the answer: --dry-run counts and foretells, --log keeps what happened, files that
# cannot be written are found before the model is.
cd "$(dirname "$0")/.." || exit 1
. tests/cli_home.sh
out=$work/out err=$work/err

# run CODE ARGUMENTS...
run() {
    wanted=$1; shift
    "$tandem" "$@" </dev/null >"$out" 2>"$err"
    expect "code of tandem $*: $(head -n 2 "$err")" "$wanted" $?
}
field() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p" "${2:-$out}" | head -n 1; }
count() { grep -c -e "$1" "$2"; }

if [ ! -f "$model" ]; then
    echo "skipped  everything that needs $model"
    echo "$passed passed, $failed failed, 1 skipped"
    exit $((failed > 0))
fi
json=1
"$tandem" --version | grep -q 'JSON: left out' && json=0

# ---- thinking alone

run 0 run "$model" -p "What is 2+3?" --think on -n 3
expect "an answer that thinking left nothing for is said to be empty" 1 "$(count 'the answer is empty' "$err")"
run 0 run "$model" -p hi --temp 0 --think on -n 5 # its last token is the end of thinking
expect "likewise where thinking had just ended" 1 "$(count 'the answer is empty' "$err")"
run 0 run "$model" -p "What is 2+3?" --no-think -n 3
expect "another is not" "" "$(cat "$err")"

# ---- a context beyond what the model has learned is given, and named

run 0 run "$model" -p hi --no-think -n 2 -c 4096 -t 1
expect "a context larger than the trained one" 1 "$(count 'trained for 2048 tokens' "$err")"

# ---- --dry-run

question="What is 2+3?"
run 0 run "$model" -p "$question" -n 20 -t 1 --dry-run
expect "the report names prompt, context, memory and both speeds" 6 \
    "$(grep -cE '^(prompt +[0-9]+ tokens|context +[0-9]+ of [0-9]+ tokens|memory |prefill .* tok/s|decode .* tok/s|fits)' "$out")"
expect "and says nothing else" "" "$(cat "$err")"
run 2 run "$model" -p "$question" -t 1 -c 4 --dry-run
expect "a context too short is told with the counts" 1 "$(count 'the context holds 4' "$err")"
run 4 run "$model" -p "$question" -t 1 --ram 140M -c 1000000 --dry-run
expect "what does not fit has ways out" 1 "$(count '^  1\. ' "$err")"
run 2 run "$model" -p "$question" -t 1 --logit-bias 99999999+1 --dry-run
run 3 run "$work/none.gguf" -p "$question" --dry-run
run 0 run "$model" -p "$question" -t 1 -o "$work/answer" --save-session kept --prefix-cache "$work/kept" \
    --heat "$work/heat.csv" --dry-run
expect "nothing is written" "" "$(ls "$work" "$work/state/tandem/sessions" 2>/dev/null |
    grep -xE 'answer|kept|heat.csv')"

if [ $json = 1 ]; then
    run 0 run "$model" -p "$question" -n 20 -t 1 --dry-run --json
    cp "$out" "$work/dry"
    run 0 run "$model" -p "$question" -n 1 --json
    expect "it counts what run counts" "$(field prompt_tokens)" "$(field prompt_tokens "$work/dry")"
    expect "context" $(($(field prompt_tokens) + 20)) "$(field context_needed "$work/dry")"
    for f in fits ram_bytes prefill_s prefill_tok_s decode_tok_s; do
        expect "--json has $f" 1 "$(count "\"$f\":" "$work/dry")"
    done
    run 0 run "$model" -p "$question" --raw --dry-run --json
    raw=$(field prompt_tokens)
    run 0 run "$model" -p "$question" --raw -n 1 --json
    expect "raw prompts too" "$(field prompt_tokens)" "$raw"
    printf '{"prompt": "one"}\n{"id": 7, "prompt": "one and two"}\n' >"$work/batch"
    printf '{"id": 1, "text": "."}\n{"id": 7, "te' >"$work/answers"
    cp "$work/answers" "$work/before"
    run 0 run "$model" --batch "$work/batch" -o "$work/answers" --dry-run --json
    expect "of a batch only what is missing" 1 "$(field prompts)"
    expect "whose answers stay as they are" "" "$(cmp "$work/answers" "$work/before" 2>&1)"
    run 0 run "$model" --batch "$work/batch" --dry-run
    expect "all of it" 1 "$(count 'tokens in 2 prompts, the longest' "$out")"
else
    echo "skipped  JSON: this build has none"
    skipped=$((skipped + 1))
fi

# ---- --log

umask 022
log=$work/log
printf 'Weather in Utopia?\n' >"$work/utopia"
run 0 run "$model" -p "Is Atlantis far?" -f "$work/utopia" -sys "You are Nemo." -n 6 --temp 0 --seed 5 -t 1 \
    --log "$log"
expect "private" "-rw-------" "$(ls -l "$log" | cut -c 1-10)"
expect "version, model, placement, sampling, answer, end" 6 \
    "$(grep -cE ' run: (tandem [0-9]|model: .*demo\.gguf|placed: .*threads 1,|sampling: temp 0,.* seed 5|answer: .* 6 tokens written|ended with code 0)' "$log")"
expect "every line has its time" 0 \
    "$(grep -cvE '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z [0-9]+ run: .' "$log")"
before=$(wc -l <"$log")
run 2 run "$model" -p "Is Atlantis far?" -c 4 --log "$log"
run 0 chat "$model" -p "Is Atlantis far?" -n 4 --log "$log"
run 1 run "$model" -p "Atlantis" -o "$work/none/answer" --log "$log"
expect "appended" 1 "$(($(wc -l <"$log") > before))"
expect "failures with their code" 2 "$(grep -cE 'ended with code (2|1)$' "$log")"
expect "and their reason" 1 "$(count 'run: error: .*none/answer' "$log")"
expect "chat's answers" 1 "$(count 'chat: answer: ' "$log")"
expect "never a word of the conversation" 0 "$(count 'Atlantis\|Utopia\|Nemo' "$log")"
TANDEM_LOG=$log run 0 eval "$model" --ppl LICENSE -c 64 --chunks 1
expect "from the environment, for eval" 1 "$(count ' eval: ended with code 0' "$log")"
run 1 run "$model" -p x --log /dev/full
expect "a full disk is told at once" 1 "$(count 'option --log: /dev/full: cannot write' "$err")"
mkfifo "$work/pipe"
run 1 run "$model" -p x --log "$work/pipe"

# kill -9: everything said before is there
"$tandem" run "$model" -p "Tell me a story." --logit-bias 1-inf -n 1000000 -c 65536 --log "$work/killed" \
    </dev/null >/dev/null 2>&1 &
tries=0
until grep -q 'sampling: ' "$work/killed" 2>/dev/null || [ $((tries += 1)) -gt 300 ]; do sleep 0.2; done
kill -9 $!
wait $! 2>/dev/null
expect "what was said before a kill is there" 1 "$(count ' run: model: ' "$work/killed")"

# ---- files that cannot be written are found first

for c in "run -p x" chat "bench -p 1 -n 0 --limits kept"; do
    # shellcheck disable=SC2086
    run 1 $c "$model" --heat "$work/none/heat.csv" --log "$work/early"
    expect "--heat: no model was loaded" 0 "$(count ' model: ' "$work/early")"
    expect "the path is named" 1 "$(count 'none/heat.csv' "$err")"
done
printf '{"prompt": "x"}\n' >"$work/one"
for o in "-p x -o $work/none/answer" "--batch $work/one -o $work/none/answers" "--batch $work/none" \
    "--batch $work/one -o $work"; do
    [ $json = 1 ] || case $o in --batch*) continue ;; esac
    # shellcheck disable=SC2086
    "$tandem" run "$model" $o --log "$work/early" </dev/null >"$out" 2>"$err"
    expect "tandem run $o fails" 1 "$(($? == 1 || $? == 3))"
    expect "before the model is loaded" 0 "$(count ' model: ' "$work/early")"
done
expect "nothing is left of the trial" "" "$(ls "$work" | grep part)"

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
