/* Undo tables and journal runs from files: whatever the checks let through is put into a map without harm, its pieces
 * are sorted and lie on their disks, and gathering copies nothing that is not in its block. */
#include <stdlib.h>

#include "extents.h"
#include "input.h"
#include "pointmap.h"
#include "record.h"

#define DISKS 2
#define ROUNDS 16

static void check(rha_map *map, const uint64_t *sizes, const uint8_t *block, size_t length) {
  uint8_t out[256];

  for (uint32_t disk = 0; disk < DISKS; disk++) {
    size_t count;
    const struct rha_piece *pieces = rha_map_pieces(map, disk, &count);
    for (size_t i = 0; i < count; i++) {
      if (pieces[i].offset + pieces[i].length > sizes[disk] || !pieces[i].length) abort();
      if (i && pieces[i].offset < pieces[i - 1].offset + pieces[i - 1].length) abort();
      if (rha_map_find(map, disk, pieces[i].offset) != i) abort();
      const uint32_t which = 0;
      const uint64_t to = pieces[i].offset % sizeof(out), lengths = length;
      uint8_t *const blocks[] = {(uint8_t *)block};
      rha_pieces_gather(&pieces[i], 1, &which, &to, blocks, &lengths, out, sizeof(out));
    }
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, size};
  uint64_t sizes[DISKS] = {(take64(&in) % (1 << 24)) & ~511ull, 1 << 16};
  rha_map *map = rha_map_new(DISKS, sizes);

  if (!map) return 0;
  for (int round = 0; round < ROUNDS && in.left; round++) {
    uint8_t what = take8(&in);
    size_t length = take8(&in) | (size_t)(take8(&in) & 31) << 8;
    uint64_t limit = take64(&in);
    if (length > in.left) length = in.left;
    uint8_t *bytes = malloc(length + 1);
    take(&in, bytes, length);
    struct rha_run found;
    const struct rha_undo_entry *table = (const void *)bytes;
    size_t entries = length / sizeof(*table);
    if (what % 3 == 0 && rha_run_check(bytes, length, DISKS, sizes, &found) == RHA_BATCH_OK) {
      size_t prefix = rha_run_prefix(bytes, length, limit, what & 4 ? limit : 0);
      if (prefix > length || rha_run_check(bytes, prefix, DISKS, sizes, &found)) abort();
      rha_map_put_run(map, bytes, prefix, 0);
    }
    if (what % 3 == 1 && !rha_undo_check(table, entries, limit, DISKS, sizes)) rha_map_put_table(map, table, entries, 0);
    if (what % 3 == 2 && limit < sizes[1]) rha_map_put(map, 1, limit & ~511ull, (length & ~511ull) % (sizes[1] - limit + 1) & ~511ull, 1, 0, 0);
    if (rha_map_settle(map) == 0) check(map, sizes, bytes, length);
    free(bytes);
  }
  rha_map_free(map);
  return 0;
}
