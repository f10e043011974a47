#!/bin/sh
# tandem plan on the published shapes, as sparse files: the table, with a card of 24 GiB, with 8 GiB of it,
# and what it says when a model does not fit. Every way out that it names is tried.
cd "$(dirname "$0")/.." || exit 1
export TANDEM_GPU=none
B=${B:-build}
tandem=$B/tandem
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
out=$work/out err=$work/err
export HOME="$work" XDG_CONFIG_HOME="$work" XDG_CACHE_HOME="$work"
passed=0 failed=0 case= ok=1
begin() { finish; case=$1; ok=1; }
finish() {
    [ -n "$case" ] || return
    if [ $ok = 1 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL  $case"; fi
    case=
}
bad() { [ $ok = 1 ] && echo "$case: $1"; ok=0; }
plan() {
    wanted=$1; shift
    "$tandem" plan "$@" >"$out" 2>"$err"
    code=$?
    [ $code = "$wanted" ] || bad "plan $*: code $code, wanted $wanted: $(head -n 2 "$err")"
}
prints() { grep -qE -e "$1" "$out" || bad "lacks \"$1\": $(head -n 2 "$out")"; }
lacks() { grep -qE -e "$1" "$out" && bad "has \"$1\": $(grep -E -e "$1" "$out" | head -n 1)"; }
# GiB of all rows of a place
sum() {
    awk -v place="$1" '{ for (i = 1; i < NF; i++) if ($i == place && $(i + 2) ~ /^[GM]iB$/)
        s += $(i + 1) / ($(i + 2) == "MiB" ? 1024 : 1) } END { printf "%.2f\n", s }' "$out"
}
between() { awk -v x="$1" -v a="$2" -v b="$3" 'BEGIN { exit !(x >= a && x <= b) }'; }

# Cores as they may be, whatever else runs here: 12.5 GB/s and 400 Gop/s each in every type.
"$B/tiny" "$work/any.gguf" --sparse && "$tandem" plan "$work/any.gguf" >"$out" 2>"$err" || cat "$err"
n=$(sed -n 's/^threads = //p' "$work/tandem/machine")
awk -v n="$n" '/^dot_gb_s/ { $3 = 12.5 * n } /^tile_gops/ { $3 = 400 * n } /^dram_gb_s/ { $3 = 15 * n } { print }' \
    "$work/tandem/machine" >"$work/profile" && mv "$work/profile" "$work/tandem/machine"
server=ram=512G,bw=460,cores=32
card=vram=24G,vbw=1000,pcie=25,tops=80,handoff=30,gpu=Card
for shape in v2-lite:mix v3:mix v3.2:q4_k v4-flash:native; do
    name=${shape%:*}
    file=$work/$name.gguf
    "$B/tiny" "$file" --like "$name" --type "${shape#*:}" --sparse || { failed=$((failed + 1)); continue; }
    begin "$name beside 24 GiB: the trunk there, and experts in the rest"
    plan 0 "$file" --what-if "$server,$card"
    prints "32 cores, 512.0 GiB free, 460 GB/s stated \| Card, 24.0 GiB free, 1000 GB/s, PCIe 25 GB/s"
    if [ $name = v2-lite ]; then # all of it fits
        prints "routed experts +GPU"; lacks "routed experts +RAM"; lacks "expert cache"
    else
        prints "expert cache [0-9.]+ % +GPU .* about [0-9]+ % of hits"; prints "routed experts +RAM"
    fi
    for row in "attention, shared experts +GPU .* GB" "embedding +RAM" "cache for 32768 tokens +GPU" \
        "scratch, graph +GPU" "left free +GPU" "left free +RAM" "decode +[0-9.]+ - [0-9.]+ tok/s" \
        "serial bound [0-9]+" "bound by " "prefill +[0-9.]+ - [0-9.]+ tok/s" "^  fits\."; do
        prints "$row"
    done
    # 61 layers of 1,284 bytes a token: tests/test_kvcache.c
    [ $name != v3.2 ] || prints "cache for 32768 tokens +GPU +2\.4 GiB"
    lacks "rates are estimates"
    between "$(sum GPU)" 23.9 24.1 || bad "$(sum GPU) GiB of 24"
    between "$(sum RAM)" 511.5 512.5 || bad "$(sum RAM) GiB of 512"

    begin "$name beside 8 GiB: what fits, and no more"
    plan 0 "$file" --what-if "$server,$card" --vram 8G
    between "$(sum GPU)" 7.9 8.1 || bad "$(sum GPU) GiB of 8"
    prints "attention, shared experts +GPU"; prints "^  fits\."

    begin "$name in 8 GiB of memory: refused, with ways out that work"
    plan 4 "$file" --what-if "ram=8G,bw=60,cores=8"
    prints "does not fit. Ways out:"; prints "^  1\. "
    grep -q "does not fit:" "$err" || bad "stderr: $(head -n 1 "$err")"
    cp "$out" "$work/refusal"
    sed -n "s|^  [0-9]\. .* :  tandem chat $file \(.*\)|\1|p" "$work/refusal" | while read -r flags; do
        # shellcheck disable=SC2086
        "$tandem" plan "$file" $flags --what-if "ram=8G,bw=60,cores=8" >"$work/way" 2>&1 ||
            echo "does not work: $flags"
    done >"$work/ways"
    [ ! -s "$work/ways" ] || bad "$(head -n 1 "$work/ways")"
    sed -n "s|^  [0-9]\. .* :  tandem plan $file \(.*\)|\1|p" "$work/refusal" | while read -r flags; do
        # shellcheck disable=SC2086
        "$tandem" plan "$file" $flags >"$work/way" 2>&1 || echo "does not work: $flags"
    done >"$work/ways"
    [ ! -s "$work/ways" ] || bad "$(head -n 1 "$work/ways")"
done
v3=$work/v3.gguf
begin "main memory too small, VRAM large: experts of whole layers there, as few as will do"
big=ram=256G,bw=460,cores=32,vram=192G,vbw=3000,pcie=50,tops=400,handoff=30
plan 0 "$v3" --what-if "$big"
prints "routed experts +GPU"; prints "routed experts +RAM|routed experts +file"; prints "^  fits\."
between "$(sum GPU)" 60 192.1 || bad "$(sum GPU) GiB of 192"
plan 0 "$v3" --what-if "$big" --emit; prints "-ncmoe [0-9]"
# what was asked for stands: refused, with that as a way out where it is one
plan 4 "$v3" --what-if "$big" -cmoe; prints "does not fit"
plan 4 "$v3" --what-if "$big" --gpu-experts 1
flags=$(sed -n 's/.*experts of the last .* in VRAM .* \(-ncmoe [0-9]*\)$/\1/p' "$out")
[ -n "$flags" ] || bad "no -ncmoe: $(grep '^  1' "$out")"
# shellcheck disable=SC2086
plan 0 "$v3" $flags --what-if "$big"; prints "^  fits\."
begin "a wish that 8 GiB cannot fulfil: refused, with the wish that they can"
plan 4 "$v3" --what-if "$server,$card" --vram 8G -ngl all
prints "does not fit. Ways out:"; prints "-ngl auto"; prints "-ngl 0"
begin "flags that --emit prints make the same placement"
plan 0 "$v3" --what-if "$server,$card"; grep -v "^  fits" "$out" >"$work/before"
plan 0 "$v3" --what-if "$server,$card" --emit; flags=$(cat "$out")
# shellcheck disable=SC2086
plan 0 "$v3" --what-if "$server,$card" $flags
grep -v "^  fits" "$out" | cmp -s - "$work/before" || bad "$flags: $(diff "$out" "$work/before" | head -n 3)"
begin "budgets of time and energy"
plan 4 "$v3" --what-if "$server,$card" --max-joules 10; grep -q "nobody knows the joules" "$err" || bad "$(cat "$err")"
plan 0 "$v3" --what-if "$server,$card" --min-tps 8
plan 4 "$v3" --what-if "$server,$card" --min-tps 60; grep -q "no context that fits" "$err" || bad "$(cat "$err")"
finish
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
