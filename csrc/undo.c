#include "undo.h"

#include <string.h>

#include "record.h"

#define UNIT 4096u
#define LONGEST_PIECE (1ull << 30) /* `length` has 32 bits */

_Static_assert(sizeof(struct rha_undo_entry) == RHA_UNDO_ENTRY_BYTES, "it stands in files");

static int is_zero(const uint8_t *data, size_t length) { return !data[0] && !memcmp(data, data + 1, length - 1); }

/* Adds [offset, offset + length) to the packed table; grows the last entry where it can. */
static size_t pack_unit(struct rha_undo_entry *packed, size_t count, const struct rha_undo_entry *unit,
                        uint32_t longest) {
  struct rha_undo_entry *last = count ? &packed[count - 1] : NULL;
  uint64_t most = unit->kind == RHA_PIECE_DATA ? longest : LONGEST_PIECE;

  if (last && last->disk == unit->disk && last->kind == unit->kind && last->offset + last->length == unit->offset &&
      (uint64_t)last->length + unit->length <= most) {
    last->length += unit->length;
    return count;
  }
  packed[count] = *unit;
  return count + 1;
}

size_t rha_undo_pack(const struct rha_undo_entry *ranges, size_t count, uint8_t *data, uint32_t longest,
                     struct rha_undo_entry *packed, size_t *data_length) {
  const uint8_t *from = data;
  uint8_t *to = data;
  size_t entries = 0;

  for (const struct rha_undo_entry *range = ranges; range < ranges + count; range++) {
    for (uint32_t done = 0, step; done < range->length; done += step, from += step) {
      step = range->length - done < UNIT ? range->length - done : UNIT;
      struct rha_undo_entry unit = {range->offset + done, step, range->disk, RHA_PIECE_ZEROS};
      if (!is_zero(from, step)) {
        unit.kind = RHA_PIECE_DATA;
        if (to != from) memmove(to, from, step);
        to += step;
      }
      entries = pack_unit(packed, entries, &unit, longest);
    }
  }
  *data_length = (size_t)(to - data);
  return entries;
}

int rha_undo_check(const struct rha_undo_entry *table, size_t count, uint64_t data_length, uint32_t disks,
                   const uint64_t *disk_bytes) {
  uint64_t sum = 0;

  for (const struct rha_undo_entry *entry = table; entry < table + count; entry++) {
    if (entry->disk >= disks || !entry->length || entry->offset % RHA_SECTOR || entry->length % RHA_SECTOR) return -1;
    if (entry->offset > disk_bytes[entry->disk] || entry->length > disk_bytes[entry->disk] - entry->offset) return -1;
    if (entry->kind != RHA_PIECE_DATA && entry->kind != RHA_PIECE_ZEROS) return -1;
    if (entry->kind == RHA_PIECE_DATA) sum += entry->length;
  }
  return sum == data_length ? 0 : -1;
}

size_t rha_undo_first_touches(rha_sectors *const *touched, const struct rha_extent *extents, size_t count,
                              struct rha_undo_entry *rows, size_t room) {
  size_t found = 0;

  for (const struct rha_extent *extent = extents; extent < extents + count; extent++) {
    uint64_t from = extent->offset / RHA_SECTOR, end = (extent->offset + extent->length) / RHA_SECTOR, first, sectors;
    for (; (sectors = rha_sectors_next_absent(touched[extent->disk], from, end, &first)); from = first + sectors) {
      if (sectors > LONGEST_PIECE / RHA_SECTOR) sectors = LONGEST_PIECE / RHA_SECTOR;
      if (found < room)
        rows[found] = (struct rha_undo_entry){first * RHA_SECTOR, (uint32_t)(sectors * RHA_SECTOR), extent->disk, RHA_PIECE_DATA};
      found++;
    }
  }
  return found;
}

int rha_undo_touch(rha_sectors *const *touched, const struct rha_undo_entry *rows, size_t count) {
  for (const struct rha_undo_entry *row = rows; row < rows + count; row++)
    if (rha_sectors_add(touched[row->disk], row->offset / RHA_SECTOR, (row->offset + row->length) / RHA_SECTOR)) return -1;
  return 0;
}
