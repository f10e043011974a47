#!/bin/sh
# Guessing ahead as users meet it: under grammars and budgets, in batches, in chats that go back, change
# their context and come back from disk, behind prefix files. What is said is what plain decoding says,
# and guesses stay good: what a block has read of a conversation is there again.
cd "$(dirname "$0")/.." || exit 1
. tests/cli_home.sh
out=$work/out err=$work/err

# run CODE ARGUMENTS...; stdin is $input
input=/dev/null
run() {
    wanted=$1; shift
    "$tandem" "$@" <"$input" >"$out" 2>"$err"
    expect "code of tandem $*: $(head -n 2 "$err")" "$wanted" $?
}
field() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p" "${2:-$out}" | head -n 1; }
# of the first, second .. guess in a step
list() { sed -n "s/.*\"$1\": \[\([0-9, ]*\)\].*/\1/p" "$out" | tail -n 1; }
first() { list "$1" | sed 's/,.*//'; }
# good CASE RIGHT ALL: more than 70 % of more than 4
good() { [ "${3:-0}" -gt 4 ] && [ $(($2 * 10)) -ge $(($3 * 7)) ]; expect "$1: $2 of $3 guesses right" 0 $?; }

if [ ! -f "$model" ] || "$tandem" --version | grep -q 'JSON: left out'; then
    echo "skipped  guesses: no $model, or a build without JSON"
    echo "$passed passed, $failed failed, 1 skipped"
    exit $((failed > 0))
fi

# ---- what forbids

# Bytes that the vocabulary has no other token for: one can follow, always, and the model would write none.
printf 'root ::= "\342\202\254\342\202\254\342\202\254\342\202\254\342\202\254\342\202\254"\n' >"$work/one.gbnf"
run 0 run "$model" -p "What is 2+3?" --no-think --grammar "$work/one.gbnf" --json --draft off
text=$(field text); tokens=$(field completion_tokens)
for n in 1 2 3; do
    run 0 run "$model" -p "What is 2+3?" --no-think --grammar "$work/one.gbnf" --json --draft $n
    expect "a grammar's text with $n guesses" "$text" "$(field text)"
    expect "its only way is what is guessed, $n at a time" "$(list guesses)" "$(list accepted)"
    expect "and no position is computed in vain" $tokens $(list steps | tr -d , | awk '{ print $1 + 2 * $2 + 3 * $3 + 4 * $4 }')
done
printf 'root ::= "[" [0-9]{1,3} (", " [0-9]{1,3}){7} "]"\n' >"$work/many.gbnf"
schema='{"type":"object","properties":{"sum":{"type":"integer"},"words":{"type":"array","items":{"enum":["red","green","blue"]},"minItems":3,"maxItems":6}},"required":["sum","words"]}'
for seed in 1 2 3; do
    set -- run 0 run "$model" -p "What is 2+3?" --temp 1 --seed $seed --json
    for how in "--no-think --grammar $work/many.gbnf" "--think 4 --grammar $work/many.gbnf" \
               "--think on -n 30" "--think 3"; do
        "$@" $how --draft off; text=$(field text)
        "$@" $how --draft $seed
        expect "seed $seed, $how: the same text" "$text" "$(field text)"
    done
    "$@" -j "$schema" --draft off; grep -o '"text": .*"thinking"' "$out" >"$work/text"
    "$@" -j "$schema" --draft $seed; grep -o '"text": .*"thinking"' "$out" >"$work/with"
    expect "seed $seed, a schema: the same text" "" "$(diff "$work/text" "$work/with")"
    good "seed $seed, a schema" "$(first accepted)" "$(first guesses)"
done

# ---- where an answer ends

run 0 run "$model" -p "What is 2+3?" --temp 0 -n 2 --json --draft 3
expect "the last token is not computed, so not guessed" "1, 0, 0, 0" "$(list steps)"
run 0 run "$model" -p "What is 2+3?" --temp 0 -n 3 --json --draft 3
expect "nor are those behind it" "0, 1, 0, 0" "$(list steps)"

# ---- what is told of it

# part FIELD: of the times of a step
part() { sed -n "s/.*\"ms_per_step\": {[^}]*\"$1\": \([^,}]*\).*/\1/p" "$out"; }
run 0 run "$model" -p "Tell me a story." -n 60 --temp 0 --json --draft 2
expect "guesses take time of their own" 1 "$(part drafting | awk '{ print ($1 > 0) }')"
expect "what was told to guess is not given up" 0 "$(field turned_off)"
expect "tokens a step are those of its counts" 1 "$(awk -v t="$(field tokens_per_step)" -v a="$(list accepted)" \
    -v s="$(list steps)" 'BEGIN { split(a, x, ", "); split(s, y, ", ");
    d = t - 1 - (x[1] + x[2] + x[3]) / (y[1] + y[2] + y[3] + y[4]); print d * d < 1e-8 }')"
run 0 run "$model" -p "Tell me a story." -n 60 --temp 0 --json --draft off
expect "without guesses they take none" 0.0 "$(part drafting)"
run 0 run "$model" -p "Tell me a story." -n 80 --temp 0 --seed 2 --json
expect "of itself it tries, soon" 1 "$(list guesses | awk '{ print ($1 > 0) }')"
printf 'What is 2+3?\n/why\n' >"$work/asks"
input=$work/asks
run 0 chat "$model" --temp 0 --stats --draft 1
expect "a chat tells tokens a step" 1 "$(grep -cE '^  [0-9.]+ tok/s · context [0-9]+ % · [0-9.]+ tokens a step' "$err")"
expect "/why knows steps of several tokens" 1 "$(cat "$out" "$err" | grep -cE 'ms a step of 1\.[0-9]+ tokens')"
expect "and what guessing takes" 1 "$(cat "$out" "$err" | grep -cE '^ +guessing +[0-9.]+ ms')"
run 0 chat "$model" --temp 0 --stats --draft off
expect "without guesses it tells none" 0 "$(grep -c 'a step' "$err")"
input=/dev/null

# ---- batches

for i in 1 2 3 4 5 6; do printf '{"prompt": "What is %d+%d?"}\n' $i $((i + 2)); done >"$work/asks"
run 0 run "$model" --batch "$work/asks" --temp 0 --draft off
grep -o '"text": .*"thinking"' "$out" >"$work/plain"
run 0 run "$model" --batch "$work/asks" --temp 0 --draft 1
grep -o '"text": .*"thinking"' "$out" >"$work/with"
expect "six answers" 6 $(wc -l <"$work/with")
expect "a batch says the same" "" "$(diff "$work/plain" "$work/with")"
good "a batch" "$(first accepted)" "$(first guesses)"

# ---- prefix files

set -- run 0 run "$model" -p "What is 12+7?" --temp 0 --json
"$@" --draft off; text=$(field text)
for time in first second third; do
    "$@" --draft 1 --prefix-cache "$work/prefix"
    expect "the $time time from a prefix file" "$text" "$(field text)"
    good "the $time time" "$(first accepted)" "$(first guesses)"
done
expect "nearly all of it was there" $(($(field prompt_tokens) - 1)) "$(field cached_tokens)"
"$@" --draft off --prefix-cache "$work/without"
"$@" --draft 1 --prefix-cache "$work/without"
expect "from a file without what the block needs" "$text" "$(field text)"
good "there" "$(first accepted)" "$(first guesses)"

# ---- chats

# talk DRAFT NAME: what $input asks, then how many guesses were right; a session goes on
talk() {
    run 0 chat "$model" --temp 0 --seed 1 --draft "$1" --session "$2"
    right=$(sed -n 's/^guesses .* \([0-9]*\) of [0-9]* guesses right.*/\1/p' "$err" | tail -n 1)
    all=$(sed -n 's/^guesses .* [0-9]* of \([0-9]*\) guesses right.*/\1/p' "$err" | tail -n 1)
}
# same CASE: the lines of $input in a chat of its own, or going on with the last one
same() {
    input=$work/talk
    talk off plain; cp "$out" "$work/plain"
    talk 1 with
    expect "$1: the same answers" "" "$(diff "$work/plain" "$out")"
    good "$1" "$right" "$all"
}
printf 'What is 2+3?\nWhat is 4+5?\n/undo\nWhat is 7+6?\n/stats\n' >"$work/talk"; same "/undo"
printf 'What is 3+9?\n/stats\n' >"$work/talk"; same "a conversation that was loaded again"
printf '/retry\n/stats\n' >"$work/talk"; same "/retry in it"
printf 'What is 8+1?\n/ctx 1024\nWhat is 5+5?\n/stats\n' >"$work/talk"; same "/ctx"
printf '/trim 1\nWhat is 6+2?\n/stats\n' >"$work/talk"; same "/trim"
printf '/clear\nWhat is 9+4?\n/stats\n' >"$work/talk"; same "/clear"

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
