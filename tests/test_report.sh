#!/bin/sh
# tools/gpu_report.sh on the emulated card: a whole bench, a part that hangs, a part that fails. Each time
# the report is there, as text and as JSON.
cd "$(dirname "$0")/.." || exit 1
B=${B:-build}
if [ ! -f "$B/tests/tandem-gpu-emulated.so" ] || [ ! -x "$B/tiny" ]; then
    echo "SKIP  the emulated card was not built: there was no C++ compiler"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export HOME="$work" XDG_CACHE_HOME="$work" EMULATED=1 OUT="$work/report"
unset TANDEM_GPU MODELS SMALL
passed=0 failed=0
check() { # WHAT COMMAND...
    what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL  $what"; fi
}
json() { # braces and brackets in pairs, no row without a value
    awk '{ gsub(/"([^"\\]|\\.)*"/, "s"); o += gsub(/\{/, "{"); c += gsub(/\}/, "}")
           a += gsub(/\[/, "["); b += gsub(/\]/, "]"); if (/: *,|: *$|, *\}/ && !/: \[$/) bad = NR }
         END { exit !(o >= 3 && o == c && a == b && a == 3 && !bad) }' "$OUT/report.json"
}
has() { grep -q -- "$1" "$OUT/$2"; }

ONLY=bench B=$B timeout 600 sh tools/gpu_report.sh 2>"$work/err"
check "bench passes: $(tail -n 3 "$OUT/bench.log" 2>/dev/null)" [ $? = 0 ]
check "kernels in the text" has "| gemv Q4_K |" report.md
check "models in the text" has "tok/s" report.md
check "goals" has "hand-off within 40 us per layer: [a-z]* ([0-9.]* us, [a-z -]*)" report.md
check "JSON" json
check "kernels in JSON" has '"kernel": "gemv Q4_K"' report.json
check "models in JSON" has '"shape": "v2-lite", "way": "cpu", "test": "tg4"' report.json
check "date, card, processor" has '"emulated": true' report.json

mkdir -p "$work/bin/tests"
cp "$B/tests/tandem-gpu-emulated.so" "$work/bin/tests/"
printf '#!/bin/sh\n[ "$1" = --version ] && echo "tandem \\"x\\"" && exit\nexec sleep 900\n' >"$work/bin/tandem"
chmod +x "$work/bin/tandem"
for limit in 4 8 16 32; do # a busy machine may leave the part no time to begin
    ONLY=bench LIMIT=$limit B=$work/bin timeout 300 sh tools/gpu_report.sh 2>"$work/err"
    code=$?
    has "bench | [0-9]* | not run" report.md || break
done
check "a part that hangs fails the report" [ $code != 0 ]
check "it is ended" [ $code != 124 ]
check "and named" has "bench | [0-9]* | stopped after [0-9]* s" report.md
check "JSON of a part that hung" json
printf '#!/bin/sh\nexit 3\n' >"$work/bin/tandem"
ONLY="bench memcheck" B=$work/bin timeout 300 sh tools/gpu_report.sh 2>"$work/err"
check "a part that fails fails the report" [ $? != 0 ]
check "and is named" has "bench | [0-9]* | failed with code" report.md
check "JSON of a part that failed" json
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
