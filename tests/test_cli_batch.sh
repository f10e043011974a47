#!/bin/sh
# tandem run for scripts: files of prompts, events, probabilities, --output.
cd "$(dirname "$0")/.." || exit 1
. tests/cli_home.sh
run() { "$tandem" run $model --temp 0 --no-think -n 12 "$@" </dev/null 2>"$work/err"; }

if run -p x --json | grep -q . ; then :; else
    grep -q 'LIBS=none' "$work/err" && { echo "skipped: no JSON in this build"
                                         echo "0 passed, 0 failed, 1 skipped"; exit 0; }
fi

# ---- --output

text=$(run -p "What is 2+2?")
run -p "What is 2+2?" -o "$work/answer.txt" >"$work/out"
expect "--output has what stdout had" "$text" "$(cat "$work/answer.txt")"
expect "and stdout nothing" "" "$(cat "$work/out")"
run -p x -o "$work/no/such/folder" >/dev/null
expect "a file that cannot be written" 1 $?
expect "no part is left behind" "answer.txt" "$(cd "$work" && ls | grep answer)"

# ---- --jsonl

run -p "What is 2+2?" --jsonl >"$work/events"
expect "every line is an event" "$(wc -l <"$work/events")" "$(grep -c '"event": "' "$work/events")"
expect "the last is done, with everything" 1 \
    "$(tail -n 1 "$work/events" | grep -c '"event": "done".*"finish_reason"')"
joined=$(sed -n 's/^{"event": "text", "text": "\(.*\)"}$/\1/p' "$work/events" | tr -d '\n')
whole=$(tail -n 1 "$work/events" | sed 's/.*"event": "done", "text": "\([^"]*\)".*/\1/')
expect "the pieces are the text" "$whole" "$joined"

# ---- --logprobs

run -p "What is 2+2?" --json --logprobs 3 >"$work/object"
tokens=$(sed 's/.*"completion_tokens": \([0-9]*\).*/\1/' "$work/object")
expect "a record for each token (the end mark has none)" "$tokens" \
    "$(grep -o '"top": \[' "$work/object" | wc -l | tr -d ' ')"
expect "greedy takes the likeliest" "" "$(grep -o \
    '"id": [0-9]*, "logprob": [^,]*, "top": \[{"token": "[^"]*", "id": [0-9]*, "logprob": [^}]*' \
    "$work/object" | sed 's/"id": \([0-9]*\), "logprob": \([^,]*\),.*"id": \([0-9]*\), "logprob": \(.*\)/\1 \2 \3 \4/' |
    awk '$1 != $3 || $2 != $4 || $2 > 0')"
run -p x --logprobs 3 >/dev/null
expect "without JSON there is no place for them" 2 $?
run -p "What is 2+2?" --jsonl --logprobs 2 >"$work/events"
expect "tokens are events" "$tokens" "$(grep -c '"event": "token"' "$work/events" | tr -d ' ')"

# ---- --batch

cat >"$work/in.jsonl" <<'END'
{"id": "a", "prompt": "What is 2+2?"}
{"id": {"n": 2}, "prompt": "What is 3+3?"}

{"prompt": "Hello!"}
{"id": "m", "messages": [{"role": "user", "content": "What is 2+2?"}]}
END
run --batch "$work/in.jsonl" >"$work/all.jsonl"
expect "a line for each prompt" "4 0" "$(wc -l <"$work/all.jsonl" | tr -d ' ') $?"
expect "ids are kept, missing ones are line numbers" '"a" {"n": 2} 4 "m" ' \
    "$(sed 's/^{"id": \(.*\), "text".*/\1/' "$work/all.jsonl" | tr '\n' ' ')"
same() { sed -n "$2p" "$1" | sed 's/.*"text": "\([^"]*\)".*/\1/'; }
expect "messages are prompts" "$(same "$work/all.jsonl" 1)" "$(same "$work/all.jsonl" 4)"
expect "answers are those of single runs" "$text" "$(same "$work/all.jsonl" 1)"

# cut off in the third line, as by kill -9: a rerun goes on and ends with the same answers
head -n 2 "$work/all.jsonl" >"$work/part.jsonl"
printf '{"id": 4, "text": "Hel' >>"$work/part.jsonl"
run --batch "$work/in.jsonl" -o "$work/part.jsonl"
expect "a rerun asks what is missing" 1 "$(grep -c '2 answered, 2 done before' "$work/err")"
strip() { sed 's/.*\("id": .*"text": "[^"]*"\).*/\1/' "$1"; }
expect "and the answers are the same" "$(strip "$work/all.jsonl")" "$(strip "$work/part.jsonl")"
run --batch "$work/in.jsonl" -o "$work/part.jsonl"
expect "then nothing is left" 1 "$(grep -c '0 answered, 4 done before' "$work/err")"

printf '{"id": 1}\n{"id": 2, "prompt": "Hi"}\n' >"$work/bad.jsonl"
run --batch "$work/bad.jsonl" >"$work/out"
expect "a prompt that cannot be answered does not stop the rest" "1 2" "$? $(wc -l <"$work/out" | tr -d ' ')"
expect "and has its line" 1 "$(grep -c '"id": 1, "error": "the line has neither' "$work/out")"
echo '{"prompt": ' >"$work/bad.jsonl"
run --batch "$work/bad.jsonl" >/dev/null
expect "a broken line stops" 3 $?
expect "and is named" 1 "$(grep -c 'bad.jsonl:1' "$work/err")"
echo 'text' >"$work/foreign"
run --batch "$work/in.jsonl" -o "$work/foreign" >/dev/null
expect "another file is not touched" "3 text" "$? $(cat "$work/foreign")"
run --batch "$work/in.jsonl" -p x >/dev/null
expect "no second prompt" 2 $?

echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
