#!/bin/sh
# Manual pages, completions, and where settings come from.
cd "$(dirname "$0")/.." || exit 1
. tests/cli_home.sh
unset TANDEM_CPU_ISA # a setting like others, which config show would tell

# ---- manual pages: every option of the help is there, and roff has nothing to say

commands=$("$tandem" help --commands)
for c in $commands; do
    "$tandem" help "$c" --man >"$work/page" || expect "page of $c" 0 $?
    missing=
    for o in $("$tandem" "$c" --help | sed -n 's/^  .*\(--[a-z0-9-]*\).*/\1/p'); do
        roff=$(printf '%s' "$o" | sed 's/-/\\\\-/g')
        grep -q -e "$roff" "$work/page" || missing="$missing $o"
    done
    expect "the page of $c tells every option" "" "$missing"
done
"$tandem" help chat --man >"$work/page"
expect "that of chat has its keys and commands" "11" \
    "$(grep -cxE '\.B (\\\(dq\\\(dq\\\(dq|Ctrl\\-[GRTCDZ].*|/set .*|/why|/branches|/export FILE)' "$work/page")"
"$tandem" help --man >"$work/tandem.1"
expect "tandem(1) names every command" "" \
    "$(for c in $commands; do grep -q "^\.B $c\$" "$work/tandem.1" || echo "$c"; done)"
if command -v groff >/dev/null; then
    for c in $commands; do
        "$tandem" help "$c" --man | groff -man -Tutf8 -ww >"$work/text" 2>"$work/warnings"
        "$tandem" help "$c" --man | groff -man -Tascii 2>/dev/null | sed 's/.\x08//g; s/\x1b\[[0-9;]*m//g' >"$work/plain"
        expect "roff is content with $c" "" "$(cat "$work/warnings")"
        expect "$c has a description and examples" 2 "$(grep -cE '^(DESCRIPTION|EXAMPLES)$' "$work/plain")"
        expect "and shows it" 1 "$(grep -c 'XDG_CONFIG_HOME' "$work/text")"
    done
else
    echo "skipped: no groff to read the pages"
    skipped=$((skipped + 1))
fi

# ---- completions

if command -v bash >/dev/null; then
    "$tandem" help --completions bash >"$work/complete.bash"
    cat >"$work/try.bash" <<'END'
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_tandem
printf '%s\n' "${COMPREPLY[@]}" | sort -u | tr '\n' ' '
END
    try() { bash "$work/try.bash" "$work/complete.bash" "$@"; }
    expect "a command" "chat " "$(try tandem cha)"
    expect "an option" "--temp --template --tensor-type " \
        "$(try tandem run --te; true)$(try tandem quantize --tensor-ty)"
    expect "its words" "always auto never " "$(try tandem bench --color '')"
    expect "options of one command only" " " "$(try tandem plan --temp)"
    expect "without a command it is chat's" "--no-history " "$(try tandem r1.gguf --no-h)"
    : >"$work/model.gguf"
    expect "files" "$work/model.gguf " "$(try tandem run -m "$work/mod")"
    expect "after help, commands" "inspect " "$(try tandem help insp)"
else
    echo "skipped: no bash to try its completions"
    skipped=$((skipped + 1))
fi
for shell in zsh fish; do
    "$tandem" help --completions $shell >"$work/complete.$shell"
    missing=
    for c in $commands; do grep -q "$c" "$work/complete.$shell" || missing="$missing $c"; done
    expect "$shell completions know every command" "" "$missing"
    if command -v $shell >/dev/null; then
        $shell -n "$work/complete.$shell" 2>"$work/warnings"
        expect "$shell reads them" "" "$(cat "$work/warnings")"
    fi
done
"$tandem" help --completions tcsh >/dev/null 2>"$work/err"
expect "another shell is refused" 2 $?
expect "by name" 1 "$(grep -c 'bash, zsh or fish' "$work/err")"

# ---- config show

expect "nothing set: nothing printed" "" "$("$tandem" config show 2>"$work/err")"
expect "but where settings go is said" 1 "$(grep -c "$work/config/tandem/config" "$work/err")"
mkdir -p "$work/config/tandem"
printf '# mine\nctx-size = 8192\ntemp = 0.3\n[models]\nr1 = /models/r1.gguf\n' \
    >"$work/config/tandem/config"
file=$work/config/tandem/config
expect "values with their origin, the stronger one wins" "temp = 0.5   (TANDEM_TEMP)
ctx-size = 8192   ($file:2)
[models]
r1 = /models/r1.gguf" "$(TANDEM_TEMP=0.5 "$tandem" config)"
expect "-v adds the defaults" 1 "$("$tandem" config show -v | grep -c '^top-p = .*(default)$')"
case $("$tandem" config show --json 2>&1) in
    *"\"origin\": \"$file:3\""*) a=1 ;;
    *'LIBS=none'*) a=1 ;;
    *) a=0 ;;
esac
expect "--json has origins too" 1 $a
"$tandem" config set x 2>"$work/err"
expect "config only shows" 2 $?

# weaker than the user's file: the system's; stronger: the folder's, which may not say what is written
mkdir -p "$work/etc/tandem" "$work/weak/tandem" "$work/folder"
printf 'top-k = 5\nctx-size = 1024\nmin-p = 0.1\n[models]\nr1 = /weak.gguf\nv3 = /v3.gguf\n' \
    >"$work/etc/tandem/config"
printf 'min-p = 0.2\ntop-p = 0.5\n' >"$work/weak/tandem/config"
printf 'temp = 0.7\n[models]\nv3 = here.gguf\n' >"$work/folder/.tandem"
program=$(command -v "$tandem" | sed "s|^[^/]|$PWD/&|")
in_folder() { (cd "$work/folder" && XDG_CONFIG_DIRS="$work/etc:not/absolute:$work/weak" "$program" "$@"); }
expect "the folder's file wins over the user's, that over the system's" "temp = 0.7   (.tandem:1)
top-k = 5   ($work/etc/tandem/config:1)
top-p = 0.5   ($work/weak/tandem/config:2)
min-p = 0.1   ($work/etc/tandem/config:3)
ctx-size = 8192   ($file:2)
[models]
r1 = /models/r1.gguf
v3 = here.gguf" "$(in_folder config)"
for key in output=x log=x prefix-cache=x heat=x session=x; do
    echo "$key" >"$work/folder/.tandem"
    in_folder config 2>"$work/err"
    expect "a folder's file may not set $key" "2 1" "$? $(grep -c 'tandem:1: .*not for a folder' "$work/err")"
done
rm "$work/folder/.tandem" && mkdir "$work/folder/.tandem"
in_folder config >"$work/out" 2>&1
expect "a folder of that name is none of ours" 0 $?

echo 'temp = warm' >"$file"
"$tandem" config show 2>"$work/err"
expect "a mistake in the file is told with its line" "2 1" "$? $(grep -c "config:1" "$work/err")"

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
