#!/bin/sh
# The command line beside a GPU: what plan sees, and what a user is told when the card will not do.
# On the emulated card, or with TANDEM_GPU on a real one (then only what every card can show).
cd "$(dirname "$0")/.." || exit 1
B=${B:-build}
tandem=$B/tandem
library=${TANDEM_GPU:-$B/tests/tandem-gpu-emulated.so}
if [ ! -f "$library" ]; then
    echo "SKIP  $library was not built: there was no C++ compiler"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
case $library in */*) ;; *) library=./$library ;; esac
export TANDEM_GPU="$library"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
out=$work/out err=$work/err
export HOME="$work" XDG_CONFIG_HOME="$work" XDG_STATE_HOME="$work" XDG_CACHE_HOME="$work"
model=models/demo.gguf passed=0 failed=0 skipped=0 case= ok=1
begin() { finish; case=$1; ok=1; }
finish() {
    [ -n "$case" ] || return
    if [ $ok = 1 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL  $case"; fi
    case=
}
bad() { [ $ok = 1 ] && echo "$case: $1"; ok=0; }
run() {
    wanted=$1; shift
    timeout 300 "$tandem" "$@" </dev/null >"$out" 2>"$err"
    code=$?
    [ $code = "$wanted" ] || bad "tandem $*: code $code, wanted $wanted: $(head -n 3 "$err")"
}
says() { grep -qF -e "$1" "$err" || bad "stderr lacks \"$1\": $(head -n 2 "$err")"; }
prints() { grep -qF -e "$1" "$out" || bad "stdout lacks \"$1\": $(head -n 2 "$out")"; }
lines() { n=$(wc -l <"$1"); [ "$n" -le "$2" ] || bad "$n lines, at most $2 wanted: $(head -n 3 "$1")"; }
silent() { [ ! -s "$1" ] || bad "unexpected output: $(head -n 2 "$1")"; }
field() { sed -n "s/.*\"$1\": \"\{0,1\}\([^\",}]*\).*/\1/p" "$out" | head -n 1; }

# A build without libraries has no JSON.
json=1
"$tandem" plan "$model" -ngl 0 --json >/dev/null 2>&1 || json=0

begin "plan finds the card, measures it once, and keeps the rates"
run 0 plan "$model"; silent "$err"; prints " free, "; prints "PCIe"; prints "GPU"
name=$(sed -n 's/^gpu = //p' "$work/tandem/machine")
[ -n "$name" ] || bad "the profile lacks the card"
prints "| $name, "
sed -i 's/^vram_gb_s = .*/vram_gb_s = 1234.5/' "$work/tandem/machine"
run 0 plan "$model"; prints ", 1234 GB/s"
run 0 plan "$model" -ngl 0; prints "| no GPU"
run 0 plan "$model" --vram 1M; prints "| $name, 1.0 MiB free"
run 0 plan "$model" --what-if "vram=24G"; prints "| GPU, 24.0 GiB free"
grep -q "1234" "$out" && bad "another card with this one's rates"
run 0 plan "$model" --what-if "cores=2"; prints "| $name, "
[ $json = 0 ] || { run 0 plan "$model" --json; [ "$(field gpu)" = "$name" ] && [ "$(field vram_gb_s)" = 1234.5 ]; } ||
    bad "JSON: $(field gpu), $(field vram_gb_s)"

begin "flags of placement: the same words, whatever lies where"
ask="-p 12+30= --raw -n 8 --temp 0 --act f32"
# shellcheck disable=SC2086
run 0 run "$model" $ask -ngl 0; mv "$out" "$work/words"
[ -s "$work/words" ] || bad "no words"
for flags in "-ngl all" "-ngl 3" "-ngl all -ncmoe 2" "-ngl all --gpu-experts 4" "-ngl all --gpu-experts 50%" \
    "-ngl all --gpu-experts 0 -cmoe" "-ngl all -ot shexp=cpu" "--vram 480M --vram-margin 1M" "-fitt 100"; do
    # shellcheck disable=SC2086
    run 0 run "$model" $ask $flags
    cmp -s "$out" "$work/words" || bad "$flags: $(head -n 1 "$out"), wanted $(head -n 1 "$work/words")"
done
# shellcheck disable=SC2086
run 0 run "$model" $ask -ngl all --gpu-experts 8 --stats; says "picks answered by 8 slots per layer"
# shellcheck disable=SC2086
run 0 run "$model" $ask -ngl all --gpu-experts 8 --json; [ "$(field expert_hit_rate)" != null ] || bad "no hits"
run 2 run "$model" -p x -ngl all -ot down_exps=cpu; says "go together"
run 4 run "$model" -p x -ngl all --vram 450M; says "-ngl auto"

begin "bench --probe-gpu times every kernel, in three forms"
run 0 bench --probe-gpu
for word in "memory read" "to the card, pinned" "gemv Q4_K" "gemv IQ2_XXS" "gemm F16" "mla decode, added" \
    "gqa decode" "mla prefill" "experts Q4_K" "router top-k" "% VRAM" "% GEMM" "launch and wait" "hand-off flags"; do
    prints "$word"
done
n=$(grep -c '^| gemv' "$out"); [ "$n" -gt 25 ] || bad "$n rows of gemv"
run 0 bench --probe-gpu -o csv; prints "kernel,shape,us,gb_s,tflop_s,of_bound,bound"
awk -F, 'NR > 13 && $0 !~ /^"[^"]*","[^"]*",-?[0-9.e+-]+,-?[0-9.e+-]*,-?[0-9.e+-]*,-?[0-9.e+-]*,[A-Z]*$/ { exit 1 }' "$out" ||
    bad "a row without figures"
[ $json = 0 ] || { run 0 bench --probe-gpu -o json; prints '"kernels":'; prints '"vram_gb_s":'; }
run 5 bench --probe-gpu --device 63; says "no GPU 63"

if [ $json = 1 ]; then
    begin "a recorded answer comes out again from the same layers of the card, and not elsewhere in silence"
    for place in "-ngl all -cmoe" "-ngl 2" "-ngl all -ncmoe 2" "-ngl all -ot ffn_.*_exps=cpu"; do
        # shellcheck disable=SC2086
        run 0 run "$model" -p hi -n 3 --temp 0 --no-think -c 64 $place --record "$work/record"
        run 0 replay "$work/record" -t 1; prints "same: 3 tokens, same bits"; prints "GPU"
    done
    run 6 replay "$work/record" -ngl 0; says "other bits from token 1 on"; says "GPU; here "
fi

# These machines exist only in the emulation.
refuse() { # CODE WORDS...: a GPU that must be used; then one that may be
    code=$1; shift
    run "$code" run "$model" -p x -ngl all; says "$1"; says "-ngl 0"; silent "$out"; lines "$err" "${2:-1}"
    run 0 run "$model" -p "What is 2+3?" -n 4 --temp 0 --no-think; says "running on the CPU"
    says "$1"; lines "$err" 2
}
case $name in emulated*) emulated=1 ;; *) emulated=0 ;; esac
if [ $emulated = 1 ]; then
    begin "bench counts the card's energy, and says whose it counted"
    export TANDEM_NVML="$library"
    run 0 bench "$model" -p 0 -n 2 -r 1 --limits kept -ngl all -o csv; prints "energy_of"
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        # two looks, 2.5 J each, for two tokens; CPUs may be counted too
        { exit !($at["j_per_token"] >= 1.25 && $at["energy_of"] ~ /gpu$/ && $at["gpu_busy"] == 0.4 &&
                 $at["limit"] == "serial") }' "$out" || bad "$(tail -n 1 "$out")"
    run 0 bench "$model" -p 0 -n 2 -r 1 --limits kept -ngl all; prints "| tg2 "; prints " 40 % |"; prints "BW_v"
    export TANDEM_GPU_EMULATE=mute
    run 0 bench "$model" -p 0 -n 2 -r 1 --limits kept -ngl all; prints "does not count its energy"
    export TANDEM_NVML="$work/none.so"
    run 0 bench "$model" -p 0 -n 2 -r 1 --limits kept -ngl all; prints "cannot be opened"
    unset TANDEM_NVML TANDEM_GPU_EMULATE

    begin "an old driver, no card, a busy one, a full one"
    export TANDEM_GPU_EMULATE
    TANDEM_GPU_EMULATE=old; refuse 5 "driver is too old"; run 0 plan "$model"; prints "driver is too old"
    run 5 plan "$model" -ngl all; says "driver is too old"; says "no GPU is there"; lines "$err" 1
    TANDEM_GPU_EMULATE=none; refuse 5 "no GPU found"; run 0 plan "$model"; prints "| no GPU found"
    TANDEM_GPU_EMULATE=busy; refuse 5 "is busy"; run 0 plan "$model"; prints "is busy"
    TANDEM_GPU_EMULATE=full; refuse 4 "is full" 8; run 0 plan "$model"; prints "is full"
    unset TANDEM_GPU_EMULATE

    begin "allocation n fails while loading: refused in one line, or the CPU answers; never a crash"
    export TANDEM_GPU_EMULATE
    run 0 run "$model" -p "What is 2+3?" -n 4 --temp 0 --no-think -ngl 0; cp "$out" "$work/cpu"
    for n in 0 1 2 3 5 8 13; do
        TANDEM_GPU_EMULATE=fail=$n
        run 0 run "$model" -p "What is 2+3?" -n 4 --temp 0 --no-think
        cmp -s "$out" "$work/cpu" || bad "allocation $n: another answer"
        lines "$err" 2
        timeout 300 "$tandem" run "$model" -p x -n 1 --no-think -ngl all </dev/null >"$out" 2>"$err"
        code=$?
        [ $code = 4 ] || [ $code = 0 ] || bad "allocation $n: code $code: $(head -n 2 "$err")"
        [ $code = 0 ] || { says "GPU"; says "-ngl 0"; }
    done
    unset TANDEM_GPU_EMULATE
else
    skipped=$((skipped + 1))
    echo "SKIP  cards that will not do: only the emulation has them"
fi
finish
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
