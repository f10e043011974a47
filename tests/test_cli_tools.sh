#!/bin/sh
# Tools and conversations from JSON files: what the model is shown, and its calls as JSON. The demo
# model knows no tools, so a grammar makes it say what a model that does would say.
cd "$(dirname "$0")/.." || exit 1
. tests/cli_home.sh

if "$tandem" run $model -p x --json -n 1 2>&1 | grep -q 'LIBS=none'; then
    echo "skipped: no JSON in this build"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi

cat >"$work/tools.json" <<'END'
[ {"type": "function", "function": {"name": "add", "parameters": {"b": [0.1, 1e20, -3]}}},
  {"name": "now"} ]
END
cat >"$work/talk.json" <<'END'
{ "messages": [
  {"role": "user", "content": [{"type": "text", "text": "1+2?"}, {"type": "image_url"}]},
  {"role": "assistant", "content": null, "reasoning_content": "Let it count.",
   "tool_calls": [{"id": "c1", "type": "function",
                   "function": {"name": "add", "arguments": "{\"a\": 1, \"s\": \"x\", \"l\": [2.50, null]}"}}]},
  {"role": "tool", "tool_call_id": "c1", "content": "3"} ],
  "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "number"}}} }
END
cat >"$work/calls.gbnf" <<'END'
root ::= "So.\n\n<｜DSML｜tool_calls>\n" add now "</｜DSML｜tool_calls>"
add ::= "<｜DSML｜invoke name=\"add\">\n" arg "</｜DSML｜invoke>\n"
arg ::= "<｜DSML｜parameter name=\"a\" string=\"false\">[1, 2.5]</｜DSML｜parameter>\n" text
text ::= "<｜DSML｜parameter name=\"t\" string=\"true\">\"x\"</｜DSML｜parameter>\n"
now ::= "<｜DSML｜invoke name=\"now\">\n\n</｜DSML｜invoke>\n"
END
sed -e 's/"So.\\n\\n/"/' "$work/calls.gbnf" >"$work/bare.gbnf"
printf 'root ::= "<｜DSML｜tool_calls>\\n<｜DSML｜invoke name=\\"a"\n' >"$work/broken.gbnf"

prompt=$("$tandem" inspect $model --messages "$work/talk.json" --tools "$work/tools.json" \
    --template v4 --think on -p "Now?" --json 2>"$work/err")
case $prompt in
    *'{\"name\": \"add\", \"parameters\": {\"b\": [0.1, 1e+20, -3]}}\n{\"name\": \"now\"}'*) a=1 ;;
    *) a=$prompt ;;
esac
expect "functions stand one to a line" 1 "$a"
case $prompt in
    *'reply:\n{\"type\": \"number\"}<｜User｜>1+2?\n\n[Unsupported image_url]<｜Assistant｜><think>'*) a=1 ;;
    *) a=$prompt ;;
esac
expect "the schema stands behind them, parts of a message are joined" 1 "$a"
case $prompt in
    *'<think>Let it count.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>\n<｜DSML｜parameter name=\"s\" string=\"true\">x</｜DSML｜parameter>\n<｜DSML｜parameter name=\"l\" string=\"false\">[2.5, null]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜><｜User｜><tool_result>3</tool_result>\n\nNow?<｜Assistant｜><think>"'*) a=1 ;;
    *) a=$prompt ;;
esac
expect "thinking, calls and results are part of the talk" 1 "$a"

run() { "$tandem" run $model --template v4 --think off --temp 0 "$@" </dev/null 2>"$work/err"; }
calls='{"name": "add", "arguments": {"a": [1, 2.5], "t": "\"x\""}}
{"name": "now", "arguments": {}}'
found=$(run -p "1+2?" --tools "$work/tools.json" --grammar "$work/calls.gbnf")
expect "calls are printed as JSON behind the text" "So.
$calls" "$found"
found=$(run -p "1+2?" --tools "$work/tools.json" --grammar "$work/bare.gbnf")
expect "calls alone" "$calls" "$found"
found=$(run -p "1+2?" --tools "$work/tools.json" --grammar "$work/calls.gbnf" --json)
for part in '"text": "So."' '"finish_reason": "tool_calls"' '"id": "call_2"' \
    '"arguments": "{\"a\": [1, 2.5], \"t\": \"\\\"x\\\"\"}"'; do
    case $found in *"$part"*) a=1 ;; *) a=$found ;; esac
    expect "--json has $part" 1 "$a"
done
found=$(run -p "1+2?" --tools "$work/tools.json" --grammar "$work/broken.gbnf")
expect "what cannot be read stays text" '<｜DSML｜tool_calls>
<｜DSML｜invoke name="a' "$found"
expect "and is said" 1 "$(grep -c 'cannot be read' "$work/err")"
found=$(run -p "1+2?" --grammar "$work/bare.gbnf" | head -n 1)
expect "without tools there are no calls" '<｜DSML｜tool_calls>' "$found"

# refuse CODE TEXT ARGUMENTS...
refuse() {
    code=$1 text=$2
    shift 2
    "$tandem" run $model --template v4 "$@" </dev/null >"$work/out" 2>"$work/err"
    expect "code of $*" "$code" $?
    expect "message of $*: $text" 1 "$(grep -cF -e "$text" "$work/err")"
}
echo '[{"description": "x"}]' >"$work/nameless.json"
echo '[{"role": "robot", "content": "x"}]' >"$work/robot.json"
echo '[{"role": "tool", "content": "x"}]' >"$work/result.json"
echo '[{' >"$work/cut.json"
refuse 3 'expected functions with a "name"' -p x --tools "$work/nameless.json"
refuse 3 'line 2' -p x --tools "$work/cut.json"
refuse 3 'message 1: role: expected' --messages "$work/robot.json"
for value in 5 true '[1, 2]'; do
    echo '[{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls":
        [{"function": {"name": "add", "arguments": '"$value"'}}]}]' >"$work/arguments.json"
    refuse 3 'arguments: expected an object' --messages "$work/arguments.json" -p x
done
refuse 2 'a result without a call' --messages "$work/result.json"
echo '{"talk": []}' >"$work/listless.json"
refuse 3 'expected a list of messages' --messages "$work/listless.json" -p x
refuse 2 'knows no tools' -p x --tools "$work/tools.json" --template v3
refuse 2 'goes with neither' -p x --raw --tools "$work/tools.json"

echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
