#!/bin/sh
# Fail when an #include points upward on the map:
#   main.c > src/cli > src/engine > src/arch > src/model > src/format > src/base
#   src/engine > src/device.h < cpu, gpu        src/cli > src/text > src/format
# Lists "folder: what it may include"; everybody may include its own folder and src/base.
cd "$(dirname "$0")/.." || exit 1
bad=0
allow() {
    folder=$1; shift
    for f in $(ls "$folder"/*.[ch] "$folder"/*.cu "$folder"/*.cuh 2>/dev/null); do
        for inc in $(sed -n 's/^#include "\(.*\)"/\1/p' "$f"); do
            ok=0
            for p in "$folder" src/base "$@"; do
                case $inc in "$p"/* | "$p") ok=1 ;; esac
            done
            [ $ok = 1 ] || { echo "$f includes $inc"; bad=1; }
        done
    done
}
allow src/base
allow src/format
allow src/text src/format
allow src/model src/format src/device.h
allow src/arch src/model src/device.h src/format
allow src/engine src/arch src/model src/device.h src/format cpu/device_cpu.h cpu/features.h \
      cpu/probe.h src/gpu_load.h gpu/gpu.h cpu/experts.h
allow src/cli src/engine src/model src/arch src/text src/format src/device.h cpu src/gpu_load.h gpu/gpu.h tools
allow cpu src/device.h src/format
allow cpu/avx2 cpu src/format src/device.h
allow cpu/avxvnni cpu src/format src/device.h
allow cpu/avx512 cpu src/format src/device.h
allow cpu/amx cpu src/format src/device.h
allow cpu/neon cpu src/format src/device.h
allow gpu src/device.h src/format
allow tools src/arch src/model src/format src/text src/engine src/device.h src/cli
[ $bad = 0 ] && echo "1 passed, 0 failed" || { echo "0 passed, 1 failed"; exit 1; }
