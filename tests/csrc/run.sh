#!/bin/sh
# C unit tests under ASan and UBSan. Usage: tests/csrc/run.sh [ROUNDS [SEED]]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
for room in extents ring; do
  ${CC:-cc} -g -O1 -std=gnu11 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all \
    -I"$root/csrc" -o "$build/test_$room" "$root/tests/csrc/test_$room.c" "$root/csrc/$room.c"
  "$build/test_$room" "$@"
done
