#!/bin/sh
# What the pages say: links lead somewhere, files that they name are there, options exist, and every
# command of README.md, docs/ and the help runs. Models are copies of the demo under the pages' names.
cd "$(dirname "$0")/.." || exit 1
. tests/cli_home.sh
unset TANDEM_CPU_ISA
root=$PWD
program=$(command -v "$tandem" | sed "s|^[^/]|$root/&|")
pages="README.md models/README.md tests/vectors/README.md $(echo docs/*.md)"

# ---- links and names of files

missing=
for page in $pages; do
    for link in $(grep -o '](\([^)#]*\)' "$page" | sed 's/^](//'); do
        case $link in http*) continue ;; esac
        [ -e "$(dirname "$page")/$link" ] || missing="$missing $page:$link"
    done
    for path in $(grep -oE '`(src|cpu|gpu|tools|tests|docs|models)/[A-Za-z0-9_./-]+`' "$page" | tr -d '`'); do
        [ -e "$path" ] || missing="$missing $page:$path"
    done
done
expect "links and names of files lead somewhere" "" "$missing"

# the table of docs/code.md: what to read first lies in the folder of its row
missing=$(sed -n 's/^| \(`[^|]*\) | [^|]* | \([^|]*\) |$/\1|\2/p' docs/code.md | while IFS='|' read -r where what; do
    for file in $(echo "$what" | grep -o '`[^`]*`' | tr -d '`'); do
        found=
        for folder in '' $(echo "$where" | grep -o '`[^`]*/`' | tr -d '`'); do
            [ -e "$folder$file" ] && found=1
        done
        [ -n "$found" ] || echo "$file"
    done
done)
expect "files to begin with" "" "$missing"
for folder in src/*/ cpu/ gpu/ tools/; do
    grep -q "\`$folder\`" docs/code.md || missing="$missing $folder"
done
expect "every folder has its row" "" "$missing"

# ---- options

for c in $("$tandem" help --commands); do
    "$tandem" help "$c" --man | sed 's/\\-/-/g'
done | grep -oE -e '--[a-z][a-z-]*' | sort -u >"$work/known"
"${B:-build}/tiny" --help 2>&1 | grep -oE -e '--[a-z][a-z-]*' >>"$work/known"
# of help, of tests/check_kernels, of llama.cpp
printf '%s\n' --man --completions --commands --bench --no-repack >>"$work/known"
missing=$(cat $pages | grep -oE -e '(^|[ `(])--[a-z][a-z-]*' | tr -d ' `(' | sort -u |
    while read -r option; do grep -qxF -e "$option" "$work/known" || echo "$option"; done)
expect "every option that is named exists" "" "$missing"

# ---- commands, and the fields of their JSON

if ! "$tandem" run $model -p x -n 1 >/dev/null 2>&1; then
    echo "skipped: no model or no libraries to run commands with"
    echo "$passed passed, $failed failed, 1 skipped"
    exit $((failed > 0))
fi
mkdir "$work/pages" "$work/bin" && cd "$work/pages" || exit 1
ln -s "$program" "$work/bin/tandem"
PATH=$work/bin:$PATH
export TANDEM_N_PROMPT=32 TANDEM_N_GEN=4
export TANDEM_FORCE=on TANDEM_LIMITS=kept TANDEM_REPETITIONS=1 TANDEM_PREDICT=24 TANDEM_COLOR=never
run() { "$program" "$@" </dev/null >"$work/out" 2>"$work/err"; }
run quantize "$root/$model" v3.gguf bf16 --allow-requantize
for name in r1 model v31 v3-q8 v3-bf16 r1-q8 v4-flash; do ln v3.gguf $name.gguf; done
for name in v3-q4 v31-q4; do cp v3.gguf $name.gguf; done
head -c 6000 "$root/models/demo/heldout.txt" >wiki.txt
for name in text report manual; do cp wiki.txt $name.txt; done
echo 'root ::= "yes" | "no"' >yes-no.gbnf
echo '{"id": 1, "prompt": "What is 2+3?"}' >questions.jsonl
echo '[{"name": "get_weather"}]' >tools.json
run quantize --collect-imatrix -m v3.gguf -f text.txt -o v3.imatrix
for name in v31 r1; do cp v3.imatrix $name.imatrix; done
run eval v3.gguf --ppl wiki.txt --kl-base v3.kl
cp v3.kl v31.kl
run bench v3.gguf -p 8 -n 4 -o json && cp "$work/out" today.json
run chat --session 2026-11-23-1 -p hi
command -v jq >/dev/null || { printf '#!/bin/sh\ncat\n' >"$work/bin/jq"; chmod +x "$work/bin/jq"; }

# Sizes of machines and of patience become those of a test.
small() {
    sed -e 's/-d 0,16384/-d 0,64/; s/-d 16384/-d 64/; s/-p 512,2048/-p 32,64/; s/-b 512,2048/-b 32,64/' \
        -e 's/-t 8,16,32/-t 1,2/; s/-n 128/-n 4/; s/-r 5/-r 1/; s/^git diff/echo "a change"/'
}
{
    (cd "$root" && cat README.md docs/*.md) | grep -E '^    ([a-z ]*\| )?tandem' | sed 's/^ *//'
    for c in $("$program" help --commands); do "$program" "$c" -h | sed -n '/^usage/,/^$/s/^  //p'; done
} | sed 's/   *[^-|" ].*$//; s/   *#.*//' | small | awk '!seen[$0]++' >"$work/commands"
n=0
while read -r line; do
    case $line in
        *'bench --probe') continue ;; # takes seconds; make bench runs it
        *--probe-gpu*) wanted=5 ;;
        *convert*) wanted=3 ;; # the checkpoint is not there
        *--compare*) wanted='[06]' ;; # as fast as the machine is today
        *) wanted=0 ;;
    esac
    template=
    case $line in *--tools*) template=v4 ;; esac
    case $line in *--save-session*) run sessions rm parser ;; *'sessions rm'*) run chat --session 2026-11-23-1 -p hi ;; esac
    TANDEM_TEMPLATE=$template TANDEM_ALLOW_REQUANTIZE=on timeout 300 sh -c "$line" </dev/null >"$work/out" 2>"$work/err"
    code=$?
    # shellcheck disable=SC2254
    case $code in $wanted) ok=1 ;; *) ok="code $code, $(head -n 3 "$work/err")" ;; esac
    expect "$line" 1 "$ok"
    n=$((n + 1))
done <"$work/commands"
fields() {
    TANDEM_TEMPLATE= run "$@"
    # metadata is named by the file
    missing=$(sed '/"metadata": {/,/^ }/d' "$work/out" | grep -oE '"[a-z0-9_]+":' | tr -d '":' | sort -u | while read -r field; do
        grep -q -e "\`$field\`" "$root"/docs/json.md "$root"/docs/bench.md || echo "$field"
    done)
    expect "fields of $*" "" "$missing"
}
fields run v3.gguf -p hi --json --logprobs 2
fields run v3.gguf -p hi --jsonl
fields run v3.gguf -p hi --json --dry-run
fields plan v3.gguf --json --compare
fields plan v3.gguf --json --ram 1K
fields inspect v3.gguf --json
fields inspect v3.gguf --verify --json
fields inspect v3.gguf --hash --json
fields inspect v3.gguf --diff v3-fit.gguf --json
fields inspect v3.gguf --tokens hi --json
fields inspect v3.gguf --prompt hi --json
fields bench v3.gguf -p 8 -n 4 --json
fields eval v3.gguf --ppl wiki.txt --json
fields eval v3.gguf --kl v3.kl --json
head -n 3 "$root/models/demo/tasks.jsonl" >tasks.jsonl
fields eval v3.gguf --tasks tasks.jsonl --json
fields replay sky.json --json
fields doctor --json
fields config --json
fields sessions --json
fields sessions show parser --json
expect "there are commands on the pages" 1 $((n > 60))

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
