#!/bin/sh
# C unit tests under ASan and UBSan. Usage: tests/csrc/run.sh [ROUNDS [SEED]]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
for room in extents ring "pointmap sectorset undo"; do
  name=${room%% *} sources=
  for source in $room; do sources="$sources $root/csrc/$source.c"; done
  # shellcheck disable=SC2086 # a list
  ${CC:-cc} -g -O1 -std=gnu11 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all \
    -I"$root/csrc" -o "$build/test_$name" "$root/tests/csrc/test_$name.c" $sources
  "$build/test_$name" "$@"
done
