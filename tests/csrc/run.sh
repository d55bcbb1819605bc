#!/bin/sh
# C unit tests under ASan and UBSan. Usage: tests/csrc/run.sh [ROUNDS [SEED]]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
${CC:-cc} -g -O1 -std=gnu11 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all \
  -I"$root/csrc" -o "$build/test_extents" "$root/tests/csrc/test_extents.c" "$root/csrc/extents.c"
"$build/test_extents" "$@"
${CC:-cc} -g -O1 -std=gnu11 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all \
  -I"$root/csrc" -o "$build/test_pointmap" "$root/tests/csrc/test_pointmap.c" "$root/csrc/pointmap.c" \
  "$root/csrc/sectorset.c"
"$build/test_pointmap" "$@"
