#!/bin/sh
# The GPU's speed: kernels, bus, and whole models made on the spot with random weights: V2-Lite in full
# size and V3 cut to 5 layers, decode and prefill for each way of handing experts to the CPU.
#
#     make bench-gpu                  on a card; some 25 GB of disk and of memory for the models
#     SMALL=1 sh tools/bench_gpu.sh   tiny models: shows that everything runs
#
# Tables go to stdout. With OUT=folder the same as csv into that folder: kernels.csv, models.csv.
# MODELS=folder keeps the models there (and uses those that are there).
set -u
cd "$(dirname "$0")/.." || exit 1
B=${B:-build}
tandem=$B/tandem
export TANDEM_GPU="${TANDEM_GPU:-$B/tandem-gpu.so}"
models=${MODELS:-$(mktemp -d)} || exit 1
[ -n "${MODELS:-}" ] || { trap 'rm -rf "$models"' EXIT; trap 'exit 143' INT TERM HUP; }
[ -z "${OUT:-}" ] || mkdir -p "$OUT" || exit 1
failed=0

if [ "${SMALL:-0}" = 1 ]; then
    shapes="v2-lite:--like=tiny-v2-lite v3:--like=tiny-v3"
    tests="-p 8 -n 4 -r 1 --limits kept"
else
    shapes="v2-lite:--like=v2-lite,--mix=Q4_K_M v3-5-layers:--like=v3,--layers=5,--mix=Q4_K_M"
    tests="-p 512 -n 64 -r 2 --limits kept"
fi

echo "## Kernels"
echo
if [ -n "${OUT:-}" ]; then
    "$tandem" bench --probe-gpu -o csv >"$OUT/kernels.csv" || failed=$?
    # the same figures as a table, without measuring twice
    awk -F'","|",|,' 'NR == 1 { print "| kernel | shape | us | GB/s | TFLOP/s | of bound | |"
                               print "|---|---|---:|---:|---:|---:|---|"; next }
        { gsub(/"/, ""); printf "|"
          n = NF < 7 ? NF : 7
          line = $0; k = split(line, c, ",")
          name = c[1]; shape = ""
          for (i = 2; i <= k - 5; i++) shape = shape (i > 2 ? "," : "") c[i]
          printf " %s | %s | %s | %s | %s | %s | %s |\n", name, shape, c[k-4], c[k-3], c[k-2],
                 c[k-1] == "" ? "" : sprintf("%.0f %%", 100 * c[k-1]), c[k] }' "$OUT/kernels.csv"
else
    "$tandem" bench --probe-gpu || failed=$?
fi
[ $failed != 5 ] || { echo "no card, nothing to bench"; exit 1; }

ways=$("$tandem" bench --help | sed -n 's/.*--handoff *\(auto|[a-z|]*\).*/\1/p' | tr '|' ' ')
echo
echo "## Models"
[ -z "${OUT:-}" ] || : >"$OUT/models.csv"
for shape in $shapes; do
    name=${shape%%:*}
    file=$models/$name.gguf
    options=$(echo "${shape#*:}" | tr ',=' '  ')
    # shellcheck disable=SC2086
    if [ ! -f "$file" ] && ! "$B/tiny" "$file" $options; then
        rm -f "$file"
        echo "no $name: it could not be written"
        failed=1
        continue
    fi
    for way in $ways cpu; do
        [ "$way" = auto ] && continue
        use="-ngl all --handoff $way"
        [ "$way" = cpu ] && use="-ngl 0"
        echo
        echo "$name, $use"
        echo
        if [ -n "${OUT:-}" ]; then
            # shellcheck disable=SC2086
            "$tandem" bench "$file" $tests $use -o csv >"$OUT/part.csv" 2>>"$OUT/bench.log" || failed=1
            awk -v m="$name" -v w="$way" -v first="$(wc -c <"$OUT/models.csv")" '
                NR > 1 || first == 0 { print (NR == 1 ? "shape,way" : m "," w) "," $0 }' \
                "$OUT/part.csv" >>"$OUT/models.csv"
            awk -F, 'NR > 1 { printf "%-12s %8.2f tok/s   %3.0f %% of the limit (%s)\n", $1, $7,
                              100 * $11, $12 }' "$OUT/part.csv"
        else
            # shellcheck disable=SC2086
            "$tandem" bench "$file" $tests $use || failed=1
        fi
    done
    [ -n "${MODELS:-}" ] || rm -f "$file"
done
[ -z "${OUT:-}" ] || rm -f "$OUT/part.csv"
exit $failed
