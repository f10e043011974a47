#!/bin/sh
# The NEON kernels on a machine without NEON: cross-build the tests that matter, let qemu run them, add
# up their closing lines. `make check-neon` calls this; without compiler or emulator it says so and
# counts nothing.
CC=${CROSS:-aarch64-linux-gnu-}gcc
QEMU=${QEMU:-qemu-aarch64}
B=build-neon
for tool in "$CC" "$QEMU"; do
    if ! command -v "$tool" >/dev/null; then
        echo "skipped: no $tool here (packages gcc-aarch64-linux-gnu and qemu-user)"
        echo "0 passed, 0 failed"
        exit 0
    fi
done
${MAKE:-make} --no-print-directory CC="$CC" B=$B LIBS=none LDFLAGS=-static SAN=0 CUDA=0 \
    $B/tests/check_kernels $B/tests/test_archs || exit 1

passed=0 failed=0
# run PROGRAM ARGUMENT...
run() {
    log=$B/tests/$(basename "$1").log
    start=$(date +%s)
    timeout "${TANDEM_TEST_TIMEOUT:-900}" "$QEMU" "$@" >"$log" 2>&1
    code=$?
    last=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    grep -v -E '^[0-9]+ passed|^seed ' "$log"
    p=0 f=1
    if [ -n "$last" ]; then
        p=${last%% passed*}
        f=${last#*passed, }; f=${f%% failed*}
        [ "$code" -eq 0 ] || [ "$f" -gt 0 ] || f=1
    fi
    passed=$((passed + p)) failed=$((failed + f))
    printf '%-28s %4d passed, %d failed  %ds\n' "$(basename "$1")" "$p" "$f" \
        $(($(date +%s) - start))
}

# Every kernel against plain C, then whole models against reference logits: one of F32 weights, one of
# Q4_K, Q6_K, Q5_0 and Q8_0 with F32 and with quantized activations.
run $B/tests/check_kernels
run $B/tests/test_archs deepseek2-v3 Q4_K_M
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
