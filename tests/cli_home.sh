# For tests of the program by a shell, sourced from the project's root: a home of its own below $work,
# no GPU, and expect. Counts are in $passed, $failed, $skipped.
export TANDEM_GPU=none
tandem=${B:-build}/tandem model=models/demo.gguf
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export HOME="$work" XDG_CONFIG_HOME="$work/config" XDG_STATE_HOME="$work/state"
export XDG_CACHE_HOME="$work/cache"
passed=0 failed=0 skipped=0

# expect CASE WANTED FOUND
expect() {
    if [ "$2" = "$3" ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    printf 'FAIL  %s\nwanted: %s\nfound:  %s\n' "$1" "$2" "$3"
}
