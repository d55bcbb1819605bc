#!/bin/bash
# The C rooms that take foreign bytes, under libFuzzer with ASan and UBSan.
# Usage: run.sh [--seconds N | --runs N] [--seed N] [--keep yes]
# First the corpus is replayed, then new inputs are made. What fails is put into the corpus as crash-…, where it stays;
# with --keep also what has reached new code.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
here=$root/tests/fuzz/c
limit=-max_total_time=60 seed=$(date +%s) keep=no
while (($#)); do
    case $1 in
        --seconds) limit=-max_total_time=$2 ;;
        --runs) limit=-runs=$2 ;;
        --seed) seed=$2 ;;
        --keep) keep=$2 ;;
        *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# Which sources each target is made of.
rooms=(extents "pointmap extents undo sectorset" "undo sectorset" ring direct bitmap)
status=0
for room in "${rooms[@]}"; do
    name=${room%% *} sources=()
    for source in $room; do sources+=("$root/csrc/$source.c"); done
    clang -g -O1 -std=gnu11 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
        -I"$root/csrc" -o "$build/$name" "$here/fuzz_$name.c" "${sources[@]}"
    mkdir -p "$here/corpus/$name" "$build/new-$name"
    if "$build/$name" "$build/new-$name" "$here/corpus/$name" "$limit" "-seed=$seed" -rss_limit_mb=512 -timeout=25 -handle_xfsz=0 -max_len=1024 \
        "-artifact_prefix=$here/corpus/$name/" -print_final_stats=1 >"$build/log" 2>&1; then
        printf 'C %-10s seed %s:%s inputs\n' "$name" "$seed" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/log" | sed 's/^/ /')"
        if [[ $keep == yes ]]; then
            "$build/$name" -set_cover_merge=1 -handle_xfsz=0 "$here/corpus/$name" "$build/new-$name" >"$build/log" 2>&1
        fi
    else
        status=1
        printf 'C %-10s seed %s: FOUND SOMETHING\n' "$name" "$seed"
        tail -40 "$build/log"
    fi
done
exit "$status"
