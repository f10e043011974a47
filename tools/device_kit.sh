#!/bin/sh
# Collect what the GPU's tests need on a machine that has a card, a compiler and nothing else:
# the fixtures that they really read, and with LIBS other than none the libraries that the program
# was linked with. Writes device-kit/: fixtures.tar.gz, lib/, README, and says how large that is.
#
#     make device-kit                       fixtures; there the program is built with LIBS=none
#     make device-kit LIBS=all              libraries too, if they fit
#
# Each test of the GPU leaves the names of the fixtures it opened in $B/tests/NAME.fixtures; those that
# have not run since they were built run now, on the emulated card.
set -u
cd "$(dirname "$0")/.." || exit 1
B=${B:-build}
kit=${KIT:-device-kit}
most=$((24 * 1024 * 1024))
fixtures=${TANDEM_FIXTURES:-../shared/fixtures}
[ -d "$fixtures" ] || { echo "device-kit: no fixtures in $fixtures: set TANDEM_FIXTURES" >&2; exit 1; }

rm -rf "$kit"
mkdir -p "$kit" || exit 1
for test in "$B"/tests/test_gpu* "$B"/tests/check_gpu*; do
    case $test in *.o | *.d | *.log | *.fixtures | *.launches) continue ;; esac
    list=$test.fixtures
    if [ ! -f "$list" ] || [ "$test" -nt "$list" ]; then
        echo "running $(basename "$test") to see what it reads"
        # shellcheck disable=SC2097,SC2098
        B=$B TANDEM_TEST_ONLY=$(basename "$test") sh tests/run.sh >"$kit/log" 2>&1 ||
            { cat "$kit/log" >&2; echo "device-kit: $test fails here" >&2; exit 1; }
            [ -f "$list" ] || : >"$list"
    fi
    cat "$list" >>"$kit/all"
done
sort -u "$kit/all" >"$kit/list"
rm -f "$kit/log" "$kit/all"
[ -s "$kit/list" ] || { echo "device-kit: no test of the GPU read a fixture" >&2; exit 1; }
# Where not all of it fits: what others show too. Types: their kernels are tested one by one without
# fixtures (check_gpu_weights), and the model is there in other types. Models: nearest to one that
# stays. A test that wants them is skipped, and says so.
may_stay_out="quants/models/deepseek2-v3-Q5_K_M quants/models/deepseek2-v3-Q3_K_M
    quants/models/deepseek2-v3-Q6_K quants/models/deepseek2-v3-Q8_0
    models/deepseek32-yarn models/llama-ropefreqs models/deepseek2-lite27 models/deepseek2-v2"
: >"$kit/LEFT_OUT"
for out in none $may_stay_out; do
    if [ "$out" != none ]; then
        grep "^$out\." "$kit/list" >>"$kit/LEFT_OUT"
        grep -v "^$out\." "$kit/list" >"$kit/rest"
        mv "$kit/rest" "$kit/list"
    fi
    tar -cf - -C "$fixtures" -T "$kit/list" -C "$PWD/$kit" LEFT_OUT | gzip -9 >"$kit/fixtures.tar.gz" || exit 1
    [ "$(stat -c %s "$kit/fixtures.tar.gz")" -gt $((most - 65536)) ] || break
done
[ ! -s "$kit/LEFT_OUT" ] || echo "left out: $(sed -n 's|.*/\(.*\)\.gguf$|\1|p' "$kit/LEFT_OUT" | tr '\n' ' ')"
n=$(wc -l <"$kit/list")
rm -f "$kit/list" "$kit/LEFT_OUT"

if [ "${KIT_LIBS:-none}" != none ]; then
    mkdir -p "$kit/lib"
    ldd "$B/tandem" | awk '$3 ~ /^\// && $1 !~ /^(libc|libm|libdl|libpthread|librt)\.so/ { print $3 }' |
        while read -r library; do cp -L "$library" "$kit/lib/"; done
fi

cat >"$kit/README" <<'EOF'
For a machine with an NVIDIA card, its driver, the CUDA toolkit (nvcc), gcc, g++ and make.
In the source folder, with this folder in it as device-kit/:

    sh tools/gpu_report.sh            # build, tests, sanitizers, bench; under 8 minutes
    cat gpu-report/report.md          # the report; report.json for programs

or step by step:

    mkdir -p build-card/fixtures && tar -C build-card/fixtures -xzf device-kit/fixtures.tar.gz
    export TANDEM_FIXTURES=$PWD/build-card/fixtures
    make -j LIBS=none CUDA=1 test-gpu
    make LIBS=none CUDA=1 bench-gpu

lib/, if there is one: what a program linked here needs; LD_LIBRARY_PATH=$PWD/device-kit/lib.
EOF

size=$(du -sb "$kit" | cut -f1)
echo "$kit: $n fixtures, $((size / 1024)) KiB of $((most / 1024)) KiB"
if [ "$size" -gt $most ]; then
    find "$kit" -type f -printf '%s %P\n' | sort -rn | head -n 5 >&2
    echo "device-kit: too large" >&2
    exit 1
fi
