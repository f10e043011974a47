#!/bin/sh
# Every kernel of gpu/*.cu was launched by some test of this run, on the emulated GPU. Prints how often.
# Runs behind the test programs, which leave their counts in $B/tests/NAME.launches.
cd "$(dirname "$0")/.." || exit 1
B=${B:-build}
counts=$(cat "$B"/tests/*.launches 2>/dev/null)
if [ -z "$counts" ]; then
    echo "SKIP  launches per kernel: no test launched any"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
kernels=$(sed -n 's/^\(template.*\)*KERNEL\(_OF(.*)\)* void \([A-Za-z0-9_]*\)(.*/\3/p' gpu/*.cu | sort -u)
missing=0
for k in $kernels; do
    n=$(echo "$counts" | awk -v k="$k" '$1 == k { n += $2 } END { print n + 0 }')
    printf '%-32s %9d launches\n' "$k" "$n"
    [ "$n" -gt 0 ] || { echo "FAIL  kernel $k was never launched"; missing=$((missing + 1)); }
done
[ $missing = 0 ] && echo "1 passed, 0 failed, 0 skipped" || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
