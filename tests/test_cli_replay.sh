#!/bin/sh
# run --record writes an answer down, replay computes it again: the same to the bit with any number of
# threads and after a cache, and every change of the record is found.
cd "$(dirname "$0")/.." || exit 1
. tests/cli_home.sh
out=$work/out err=$work/err record=$work/record.json

# run CODE ARGUMENTS...
run() {
    wanted=$1; shift
    timeout 300 "$tandem" "$@" </dev/null >"$out" 2>"$err"
    expect "code of tandem $*: $(head -n 2 "$err")" "$wanted" $?
}
count() { grep -c -e "$1" "$2"; }
same() { expect "$1: $(cat "$out")" 1 "$(count '^same: [0-9]* tokens, same bits (recorded by version ' "$out")"; }

if [ ! -f "$model" ] || "$tandem" --version | grep -q 'JSON: left out'; then
    "$tandem" run "$model" -p x --record "$record" >"$out" 2>"$err" </dev/null
    expect "refused, nothing left" "1 " "$(($? != 0)) $(ls "$work" | grep record)"
    echo "skipped  everything that needs $model and JSON"
    echo "$passed passed, $failed failed, 1 skipped"
    exit $((failed > 0))
fi
story="-p Once --temp 1 --seed 5 -n 24 --raw"

# ---- the same bits

umask 022
# shellcheck disable=SC2086
run 0 run "$model" $story --record "$record" -t 1
cp "$out" "$work/answer"
expect "private" "-rw-------" "$(ls -l "$record" | cut -c 1-10)"
# shellcheck disable=SC2086
run 0 run "$model" $story --deterministic
expect "--record implies --deterministic" "" "$(cmp "$out" "$work/answer" 2>&1)"
for o in "-t 1" "-t 2" "-t 3 --load copy" "-m $model --load mmap --force"; do
    # shellcheck disable=SC2086
    run 0 replay "$record" $o
    same "replay $o"
    expect "all of them" 1 "$(count '^same: 24 tokens' "$out")"
done
run 0 replay "$record" --json
expect "--json" 1 "$(count '"same": true, "same_tokens": true, "same_bits": true, "tokens": 24' "$out")"
expect "what is not said is not written" "" "$(ls "$work" | grep part)"

# a prompt that comes from a cache
head -c 900 models/demo/heldout.txt >"$work/long"
for o in Sum. Read.; do
    run 0 run "$model" -f "$work/long" -p $o -n 8 --temp 0 --prefix-cache "$work/kept" --record "$record.$o" --json
done
expect "the second was in the cache" 0 "$(count '"cached_tokens": 0' "$out")"
run 0 replay "$record.Read." -t 2
same "after a prefix cache"

# everything that decides tokens comes from the record
again() { # ARGUMENTS of run
    run 0 run "$model" --seed 3 --record "$work/again.json" "$@"
    TANDEM_TEMP=0.1 TANDEM_SEED=99 run 0 replay "$work/again.json"
    same "run $*"
}
again -p "What is 2+3?" -n 200
expect "ended by its mark" 1 "$(count '"finish_reason": "stop"' "$work/again.json")"
again -p "What is 12 + 30?" --think 3 -n 40
again -p "What is 12 + 30?" --no-think -sys "Be brief." -n 12
again -p Hi -n 30 --repeat-penalty 1.3 --presence-penalty 0.5 --frequency-penalty 0.25 --top-k 40 --min-p 0.01
again -p Hi -n 12 --logit-bias 100+3.5 --logit-bias 1-inf
again -p "Tell me a story." --no-think --stop small -n 60
again -p Hi --no-think -j '{"type": "array", "items": {"type": "integer"}, "maxItems": 3}' -n 40
printf 'root ::= "ja" | "nein"\n' >"$work/gbnf"
again -p Hi --no-think --grammar "$work/gbnf"
again -p Hi --template chatml -n 8 --act f32
again -p Once --raw -c 16 --logit-bias 1-inf
expect "ended by the context" 1 "$(count '"finish_reason": "context"' "$work/again.json")"

# ---- what is not the same

# change EXPRESSION: another record, by sed
change() { sed -e "$1" "$record" >"$work/changed"; cmp -s "$record" "$work/changed" && expect "changed by $1" 1 0; }
step() { sed "s/.*\"$1\": \[\([^]]*\)\].*/\1/" "$record" | tr -d ' "' | cut -d, -f "$2"; }
fifth=$(step answer 5)
change "s/\(\"answer\": \[\([0-9]*, \)\{4\}\)[0-9]*/\1$((fifth == 300 ? 301 : 300))/"
run 6 replay "$work/changed"
expect "another token, its place, both texts" 1 \
    "$(count 'other from token 5 on: recorded "..*", here "..*" (recorded by' "$err")"
run 6 replay "$work/changed" --json
expect "in --json" 1 "$(count '"same": false, "same_tokens": false.*"first_other_token": 5, "first_other_bits": null, "recorded_token": ".' "$out")"
seventh=$(step logits 7)
change "s/$seventh/$(echo "$seventh" | tr 0123456789abcdef 123456789abcdef0)/"
run 6 replay "$work/changed" -t 2
expect "one hash" 1 "$(count 'same: 24 tokens, but other bits from token 7 on (recorded by .*; here ' "$err")"
run 6 replay "$work/changed" --json
expect "in --json" 1 "$(count '"same": false, "same_tokens": true, "same_bits": false.*"first_other_bits": 7,' "$out")"
change 's/\("answer": \[.*\), [0-9]*\], "logits": \(.*\), "[0-9a-f]*"\], "f/\1], "logits": \2], "f/'
run 6 replay "$work/changed"
expect "a token less" 1 "$(count 'token 24 on: recorded the end of the answer, here "' "$err")"
change 's/"predict": 24/"predict": 20/'
run 6 replay "$work/changed"
expect "tokens more" 1 "$(count 'token 21 on: recorded ".*", here the end of the answer' "$err")"
change 's/"seed": 5/"seed": 6/'
run 6 replay "$work/changed"
change 's/"prompt": \[/&7, /'
run 6 replay "$work/changed"
change 's/"finish_reason": "length"/"finish_reason": "stop"/'
run 6 replay "$work/changed"
expect "another end" 1 "$(count 'another end: recorded stop, here length' "$err")"
change 's/"temp": 1.0/"temp": 0.0/'
run 6 replay "$work/changed"
change 's/"act": "fast"/"act": "f32"/'
run 6 replay "$work/changed"
other=ref # instructions; where the record is of plain C, the strongest there are
[ "${TANDEM_CPU_ISA:-}" = ref ] && other=$("$tandem" --version | sed -n 's/^instruction sets: .*\(avx2\|neon\).*/\1/p')
if [ -n "$other" ]; then
    run 6 replay "$record" --cpu-isa "$other"
    expect "$other: other bits" 1 "$(count 'other bits from token 1 on\|other from token' "$err")"
fi

# ---- damaged records, other models

for key in record version commit time cpu_isa gpu gpu_layers n_cpu_moe overrides model model_hash numerics act \
    cache_type ctx_size temp top_k top_p min_p repeat_penalty presence_penalty frequency_penalty seed \
    logit_bias predict think think_budget template raw stop grammar in_thinking calls prompt answer logits \
    finish_reason; do
    for new in "\"none\": " "\"$key\": {}, \"none\": "; do
        change "s/\"$key\": /$new/"
        timeout 300 "$tandem" replay "$work/changed" </dev/null >"$out" 2>"$err"
        expect "$new: code" 3 $?
        expect "$new: $(cat "$err")" 1 "$(count "damaged record.*\"$key\"" "$err")"
    done
done
for e in 's/"ctx_size": [0-9]*/"ctx_size": 1/' 's/"ctx_size": /&99999999999/' 's/"answer": \[[0-9]*/"answer": [-1/' \
    's/"answer": \[[0-9]*/"answer": [99999999/' 's/"prompt": \[/&2147483647, /' 's/"prompt": \[/&99999999999, /' \
    's/"prompt": \[/&0.5, /' 's/"prompt": \[[^]]*/"prompt": [/' 's/"logits": \["[0-9a-f]*/"logits": ["xyz/' \
    's/"logits": \["[0-9a-f]*", /"logits": [/' 's/"temp": 1.0/"temp": -1/' 's/"top_p": [0-9.]*/"top_p": 2/' \
    's/"logit_bias": \[/&[1, "a"]/' 's/"logit_bias": \[/&[99999999, 1]/' 's/"logit_bias": \[/&[1]/' \
    's/"stop": \[/&"a\\u0000b"/' 's/"template": "[^"]*/"template": "x/' 's/"record": 1/"record": 2/' \
    's/"grammar": null/"grammar": "root ::= ("/' 's/$/x/' 's/{/[/' 's/.*//' 's/.*/[]/' 's/.*/"x"/'; do
    change "$e"
    run 3 replay "$work/changed"
done
head -c 700 "$record" >"$work/changed"
run 3 replay "$work/changed"
run 3 replay "$work/none.json"
run 3 replay "$work"
run 3 replay "$model"
run 2 replay
run 2 replay "$record" "$record"
run 2 replay "$record" --temp 0
run 0 quantize "$model" "$work/other.gguf" q8_0 --allow-requantize -q
run 3 replay "$record" -m "$work/other.gguf"
expect "another model is named" 1 "$(count 'other.gguf is another model' "$err")"
cp "$model" "$work/moved.gguf"
run 0 run "$work/moved.gguf" -p hi -n 2 --record "$work/moved.json"
rm "$work/moved.gguf"
run 3 replay "$work/moved.json"
expect "a model that is gone, with the way on" 1 "$(count "record's model (-m FILE.*moved.gguf" "$err")"
run 0 replay "$work/moved.json" -m "$model"
same "a model that was moved"

# ---- where it is written

echo old >"$work/kept.json"
run 2 run "$model" -p hi -c 4 --record "$work/kept.json"
expect "a run that fails leaves what was there" old "$(cat "$work/kept.json")"
run 1 run "$model" -p hi --record "$work/none/record" --log "$work/early"
expect "before the model is loaded" 0 "$(count ' model: ' "$work/early")"
run 1 run "$model" -p hi -n 1 --record /dev/full
echo '{"prompt": "x"}' >"$work/batch"
run 2 run "$model" --batch "$work/batch" --record "$record"
run 0 run "$model" -p hi --record "$work/dry.json" --dry-run
expect "nothing is written by --dry-run, nothing left" "" "$(ls "$work" | grep -E 'dry|part')"

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
