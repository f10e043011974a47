#!/bin/sh
# Everything that shows whether the GPU code works on a card, and how fast: build, the GPU's tests,
# compute-sanitizer on the small ones, kernels and models. Needs nvcc, gcc, g++, make, the driver and
# either the fixtures or device-kit/ (make device-kit). Ends within 8 minutes whatever happens, and
# leaves gpu-report/: report.md, report.json, and a log of each part.
#
#     sh tools/gpu_report.sh                 on a card
#     EMULATED=1 sh tools/gpu_report.sh      the emulated card, tiny sizes: shows that this script works
#
# OUT=folder, LIMIT=seconds in all, JOBS=n, LIBS=none|all, ONLY="part part ..." for some of the parts.
set -u
cd "$(dirname "$0")/.." || exit 1
emulated=${EMULATED:-0}
out=${OUT:-gpu-report}
limit=${LIMIT:-465}
jobs=${JOBS:-$(nproc)}
libs=${LIBS:-none}
if [ "$emulated" = 1 ]; then
    B=${B:-build}
    library=$B/tests/tandem-gpu-emulated.so
    small=1
else
    B=${B:-build-card}
    library=$B/tandem-gpu.so
    small=${SMALL:-0}
fi
export B
if [ -z "${TANDEM_FIXTURES:-}" ] && [ -d "$B/fixtures" ]; then
    export TANDEM_FIXTURES="$PWD/$B/fixtures"
fi

# ---- the parts; exit code 77: not available here ------------------------------------------------

part_build() {
    if [ -z "${TANDEM_FIXTURES:-}" ] && [ -f device-kit/fixtures.tar.gz ]; then
        mkdir -p "$B/fixtures" && tar -C "$B/fixtures" -xzf device-kit/fixtures.tar.gz || return 1
    fi
    if [ "$emulated" = 1 ]; then
        make -j"$jobs" B="$B" LIBS="${LIBS:-all}" all emulated gpu-tests
    else
        make -j"$jobs" B="$B" LIBS="$libs" CUDA=1 all gpu-tests
    fi
}

part_tests() {
    [ -d "${TANDEM_FIXTURES:-../shared/fixtures}" ] || { echo "no fixtures, no device-kit/"; return 1; }
    TANDEM_GPU=$library TANDEM_TEST_ONLY=gpu TANDEM_TEST_TIMEOUT=100 sh tests/run.sh
}

# One tool on the tests that it gets through in its time, the short ones first. Without a summary it was
# not let at the card.
sanitize() {
    tool=$(command -v compute-sanitizer ||
        ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" /usr/local/cuda*/bin/compute-sanitizer \
           /opt/cuda/bin/compute-sanitizer 2>/dev/null | head -n 1)
    [ -n "$tool" ] || { echo "no compute-sanitizer here"; return 77; }
    end=$(($(date +%s) + ${PART_S:-60} - 5)) done=0
    for test in check_gpu check_gpu_router check_gpu_attention check_gpu_weights; do
        rest=$((end - $(date +%s)))
        [ $rest -ge 3 ] || { echo "SKIP  $test: no time left"; continue; }
        TANDEM_GPU=$library timeout -k 2 $rest "$tool" --tool "$1" --error-exitcode 9 "$B/tests/$test" \
            >"$out/$1.tool" 2>&1
        code=$?
        cat "$out/$1.tool"
        case $code in 124 | 137)
            echo "SKIP  $test: not through in $rest s"
            [ $done -gt 0 ] || { echo "compute-sanitizer is too slow here"; return 77; }
            continue ;;
        esac
        summary=$(grep -m 1 'SUMMARY:' "$out/$1.tool")
        if [ -z "$summary" ] || grep -q 'did not launch\|No attachable process' "$out/$1.tool"; then
            echo "compute-sanitizer was refused: $(grep -i -m 1 'error\|unable\|attach' "$out/$1.tool")"
            return 77
        fi
        [ $code = 0 ] || return 1
        done=$((done + 1))
    done
}
part_memcheck() { sanitize memcheck; }
part_racecheck() { sanitize racecheck; }

part_bench() { OUT=$out SMALL=$small TANDEM_GPU=$library sh tools/bench_gpu.sh; }

if [ "${1:-}" = --part ]; then
    "part_$2"
    exit
fi

# ---- running them, each with a limit of its own -------------------------------------------------

start=$(date +%s)
rm -rf "$out"
mkdir -p "$out" || exit 1
left() { echo $((limit - $(date +%s) + start)); }

# run NAME SECONDS [NEEDS]: a part that has passed before
run() {
    name=$1 most=$2 begun=$(date +%s)
    case " ${ONLY:-$name} " in *" $name "*) ;; *) return ;; esac
    [ "$most" -le "$(left)" ] || most=$(left)
    if [ "$most" -lt 3 ]; then
        state="not run: no time left"
    elif [ -n "${3:-}" ] && ! grep -q "^$3	.*	passed" "$out/parts"; then
        state="not run: $3 did not pass"
    else
        echo "gpu_report: $name, at most $most s" >&2
        OUT=$out PART_S=$most timeout -k 5 "$most" sh tools/gpu_report.sh --part "$name" >"$out/$name.log" 2>&1
        code=$?
        case $code in
        0) state=passed ;;
        77) state="not available: $(tail -n 1 "$out/$name.log")" ;;
        124 | 137) state="stopped after $most s" ;;
        *) state="failed with code $code" ;;
        esac
    fi
    printf '%s\t%s\t%s\n' "$name" "$(($(date +%s) - begun))" "$state" >>"$out/parts"
}

: >"$out/parts"
run build 200
[ -d "$B/fixtures" ] && [ -z "${TANDEM_FIXTURES:-}" ] && export TANDEM_FIXTURES="$PWD/$B/fixtures"
[ -z "${ONLY:-}" ] || case " $ONLY " in *" build "*) ;; *) printf 'build\t0\tpassed\n' >>"$out/parts" ;; esac
run tests 120 build
run memcheck 60 build
run racecheck 60 build
run bench 240 build

# ---- the report ---------------------------------------------------------------------------------

smi=$(nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,pcie.link.gen.max,pcie.link.width.max \
    --format=csv,noheader 2>/dev/null | head -n 1)
[ "$emulated" = 0 ] || smi="emulated, none, 0, 0, 0, 0"
field() { echo "${smi:-unknown}" | awk -F', *' -v n="$1" '{ print (n <= NF ? $n : "unknown") }'; }
cpu=$(lscpu 2>/dev/null | sed -n 's/^Model name: *//p' | head -n 1)
cores=$(nproc)
commit=$("$B/tandem" --version 2>/dev/null | head -n 1)
nvcc=$( (nvcc --version || /usr/local/cuda/bin/nvcc --version) 2>/dev/null | sed -n 's/.*release \([^,]*\).*/\1/p')
date=$(date -u '+%Y-%m-%d %H:%M UTC')

# For awk: the cells of a csv line into c; how many.
csv_cells='
    function cells(line, c,    n, i, ch, quoted) {
        n = 1; c[1] = ""; quoted = 0
        for (i = 1; i <= length(line); i++) {
            ch = substr(line, i, 1)
            if (ch == "\"" && quoted && substr(line, i + 1, 1) == "\"") { c[n] = c[n] ch; i++ }
            else if (ch == "\"") quoted = !quoted
            else if (ch == "," && !quoted) c[++n] = ""
            else c[n] = c[n] ch
        }
        return n
    }'

# What the project wants of a card, and what this one gave.
goals() {
    [ -s "$out/kernels.csv" ] || return
    echo "## Goals"
    echo
    awk "$csv_cells"'
        function verdict(ok) { return ok ? "reached" : "missed" }
        { n = cells($0, c) }
        c[1] ~ /^gemv/ && c[2] !~ /token/ && c[6] != "" {
            share = 100 * c[6]
            if (worst == "" || share < least) { least = share; worst = c[1] }
            if (c[1] == "gemv Q4_K") q4 = share
        }
        c[1] == "mla decode, added" && c[6] > 0 { added = 1 / c[6] }
        c[1] ~ /hand-off|callback in a graph/ && c[3] != "" && (way == "" || c[3] + 0 < us) {
            us = c[3] + 0; way = c[1]; sub(/, us$/, "", way) }
        END {
            if (worst != "")
                printf "- GEMV at 70 %% of VRAM bandwidth: %s (Q4_K %.0f %%; the slowest, %s, %.0f %%)\n",
                       verdict(q4 >= 70), q4, worst, least
            if (added != "")
                printf "- latent attention adds at most twice its bound: %s (%.1f times)\n",
                       verdict(added <= 2), added
            if (way != "")
                printf "- hand-off within 40 us per layer: %s (%.1f us, %s)\n", verdict(us <= 40), us, way
        }' "$out/kernels.csv"
    [ ! -s "$out/models.csv" ] || awk "$csv_cells"'
        NR == 1 { n = cells($0, c); for (i = 1; i <= n; i++) at[c[i]] = i; next }
        { n = cells($0, c); share = 100 * c[at["of_limit"]] }
        c[1] == "v2-lite" && c[2] != "cpu" && c[at["test"]] ~ /^tg/ && share > best { best = share; way = c[2] }
        END { if (way != "")
            printf "- V2-Lite decodes at 70 %% of the serial bound: %s (%.0f %%, %s)\n",
                   best >= 70 ? "reached" : "missed", best, way }' "$out/models.csv"
    [ "$emulated" = 0 ] || echo "- (the card was emulated: none of this means anything)"
    echo
}

{
    echo "# $(field 1), $date"
    echo
    echo "driver $(field 2), memory $(field 3), power limit $(field 4), PCIe $(field 5) x$(field 6);" \
        "CUDA ${nvcc:-unknown}; ${cpu:-unknown CPU}, $cores threads; ${commit:-no program}"
    echo
    echo "| part | seconds | |"
    echo "|---|---:|---|"
    awk -F'\t' '{ printf "| %s | %s | %s |\n", $1, $2, $3 }' "$out/parts"
    echo
    goals
    for name in tests memcheck racecheck; do
        [ -f "$out/$name.log" ] || continue
        echo "## $name"
        echo
        echo '```'
        grep -E 'FAIL|SKIP|passed,|SUMMARY|refused|no compute' "$out/$name.log" | tail -n 40
        echo '```'
        echo
    done
    [ ! -f "$out/bench.log" ] || cat "$out/bench.log"
    echo
    echo "## lscpu"
    echo
    echo '```'
    lscpu 2>/dev/null
    echo '```'
} >"$out/report.md"

# Rows of a csv file as JSON objects: numbers as such, empty cells as null.
csv_json() {
    [ -s "$1" ] || { printf '[]'; return; }
    awk "$csv_cells"'
        function text(s) { gsub(/\\/, "\\\\", s); gsub(/"/, "\\\"", s); return "\"" s "\"" }
        function value(s) {
            if (s == "") return "null"
            return s ~ /^-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[-+]?[0-9]+)?$/ ? s : text(s)
        }
        NR == 1 { n_names = cells($0, names); printf "["; next }
        { n = cells($0, c); printf "%s\n  {", (NR > 2 ? "," : "")
          for (i = 1; i <= n && i <= n_names; i++)
              printf "%s%s: %s", (i > 1 ? ", " : ""), text(names[i]), value(c[i])
          printf "}" }
        END { printf "\n ]" }' "$1"
}
quote() { printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&"/'; }

{
    printf '{\n "date": %s,\n "gpu": %s,\n "driver": %s,\n' "$(quote "$date")" \
        "$(quote "$(field 1)")" "$(quote "$(field 2)")"
    printf ' "memory": %s,\n "power_limit": %s,\n "pcie": %s,\n' "$(quote "$(field 3)")" \
        "$(quote "$(field 4)")" "$(quote "$(field 5) x$(field 6)")"
    printf ' "cuda": %s,\n "cpu": %s,\n "threads": %s,\n "version": %s,\n "emulated": %s,\n' \
        "$(quote "${nvcc:-unknown}")" "$(quote "${cpu:-unknown}")" "$cores" \
        "$(quote "${commit:-unknown}")" "$([ "$emulated" = 1 ] && echo true || echo false)"
    printf ' "parts": '
    { printf 'name\tseconds\tstate\n'; cat "$out/parts"; } | sed 's/"/""/g; s/\t/","/g; s/^/"/; s/$/"/' \
        >"$out/parts.csv"
    csv_json "$out/parts.csv"
    printf ',\n "kernels": '
    csv_json "$out/kernels.csv"
    printf ',\n "models": '
    csv_json "$out/models.csv"
    printf '\n}\n'
} >"$out/report.json"
rm -f "$out/parts.csv" "$out"/*.tool

cat "$out/parts" >&2
echo "gpu_report: $out/report.md, $out/report.json, $(($(date +%s) - start)) s" >&2
! grep -q '	failed\|	stopped\|	not run' "$out/parts"
