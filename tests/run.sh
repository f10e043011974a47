#!/bin/sh
# Run every test program of $B and add up their closing lines. Programs run from the project's root.
# TANDEM_TEST_ONLY=word runs those whose name contains the word.
B=${B:-build}
# Nobody's settings, sessions and figures of the machine, whoever runs this.
HOME=$(mktemp -d) || exit 1
trap 'rm -rf "$HOME"' EXIT
trap 'exit 130' INT TERM
export HOME XDG_CONFIG_HOME="$HOME/config" XDG_STATE_HOME="$HOME/state" XDG_CACHE_HOME="$HOME/cache"
unset NO_COLOR COLUMNS LINES LC_ALL LC_CTYPE LANG
passed=0 failed=0 skipped=0
for t in "$B"/tests/test_* "$B"/tests/check_* tests/test_*.sh; do
    [ -f "$t" ] && [ -x "$t" ] || continue
    case $t in *.o | *.d | *.log | *.launches | *.fixtures) continue ;; esac
    name=$(basename "$t")
    case $name in *"${TANDEM_TEST_ONLY:-}"*) ;; *) continue ;; esac
    start=$(date +%s)
    log="$B/tests/$name.log"
    # what it launched on the emulated GPU, and the fixtures it read
    rm -f "$B/tests/$name.launches" "$B/tests/$name.fixtures"
    B=$B TANDEM_GPU_COUNTS="$B/tests/$name.launches" \
        TANDEM_FIXTURES_USED="$B/tests/$name.fixtures" timeout "${TANDEM_TEST_TIMEOUT:-900}" "$t" >"$log" 2>&1
    code=$?
    last=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    if [ -z "$last" ]; then
        echo "FAIL  $name: ended with code $code before its closing line"
        tail -n 15 "$log" | sed 's/^/      /'
        failed=$((failed + 1))
        continue
    fi
    grep -v -E '^[0-9]+ passed|^seed ' "$log"
    p=${last%% passed*}
    f=${last#*passed, }; f=${f%% failed*}
    s=${last#*failed, }; s=${s%% skipped*}
    case $s in *[!0-9]*) s=0 ;; esac
    if [ "$f" -eq 0 ] && [ "$code" -ne 0 ]; then
        echo "FAIL  $name: exit code $code"
        tail -n 15 "$log" | sed 's/^/      /'
        f=1
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-28s %4d passed, %d failed, %d skipped  %ds\n' "$name" "$p" "$f" "$s" \
        $(($(date +%s) - start))
done
[ "$skipped" -gt 0 ] && echo "($skipped skipped: the reasons are above)"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
