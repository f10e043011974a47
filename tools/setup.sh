#!/bin/sh
# Install what building Tandem needs: a C and a C++ compiler, make, and five libraries. Silent when all is there.
#   sh tools/setup.sh           install what is missing (as root or with sudo), else say how
#   sh tools/setup.sh --show    say what was found, install nothing
# Works on Debian and Ubuntu; elsewhere it names what is missing.
show=0
[ "$1" = --show ] && show=1

have() { command -v "$1" >/dev/null 2>&1; }

# Debian package, and what proves that it is there.
missing=
need() {
    package=$1; shift
    if "$@" >/dev/null 2>&1; then
        [ $show = 1 ] && echo "found    $package"
    else
        missing="$missing $package"
        [ $show = 1 ] && echo "missing  $package"
    fi
}
library() { have pkg-config && pkg-config --exists "$1"; }
openblas() { library openblas || ls /usr/include/cblas.h /usr/include/*/cblas.h 2>/dev/null | grep -q .; }
compiler() { have "${CC:-cc}" && echo 'int main(void){return 0;}' | "${CC:-cc}" -x c -o /dev/null -; }
header() { echo "#include <$1>" | "${CC:-cc}" -E - ; }
find_missing() {
    missing=
    need gcc compiler
    need g++ have "${CXX:-c++}" # the GPU code on the CPU, for the tests
    need libc6-dev compiler
    need make have make
    need pkg-config have pkg-config
    need libreadline-dev library readline
    need libpcre2-dev library libpcre2-8
    need libopenblas-dev openblas
    need libjansson-dev library jansson
    need libmd4c-dev header md4c.h
}

# CUDA is optional and never installed from here.
show_cuda() {
    for nvcc in "$(command -v nvcc 2>/dev/null)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" \
        /usr/local/cuda-*/bin/nvcc /usr/lib/cuda/bin/nvcc; do
        if [ -x "$nvcc" ]; then
            echo "CUDA compiler: $nvcc"
            return
        fi
    done
    echo "CUDA compiler: none, Tandem computes on the CPU"
}

find_missing
[ $show = 1 ] && { show_cuda; exit 0; }
[ -z "$missing" ] && exit 0

command="apt-get install -y --no-install-recommends$missing"
if ! have apt-get; then
    echo "setup: missing (named as in Debian):$missing" >&2
    echo "setup: install these with your system's package manager, then run this again" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    root=env
elif have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    root="sudo env"
else
    echo "setup: missing:$missing" >&2
    echo "setup: as root, run:  apt-get update && $command" >&2
    exit 1
fi
echo "setup: installing$missing"
root="$root DEBIAN_FRONTEND=noninteractive"
# A fresh machine has no package lists yet: fetch them when the first try fails.
$root $command >/dev/null 2>&1 || { $root apt-get update && $root $command; } || {
    echo "setup: installing failed; by hand:  apt-get update && $command" >&2
    exit 1
}
find_missing
if [ -n "$missing" ]; then
    echo "setup: still missing:$missing" >&2
    exit 1
fi
show_cuda
