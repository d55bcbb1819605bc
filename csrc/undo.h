/* What undo files keep: of what is about to be overwritten, the ranges that are touched for the first time in an interval;
 * their old content, packed into a table of entries and the data that is not zero. */
#ifndef RHA_UNDO_H
#define RHA_UNDO_H
#include <stddef.h>
#include <stdint.h>

#include "extents.h"
#include "sectorset.h"

/* cffi:begin */
enum rha_piece_kind { RHA_PIECE_DATA = 1, RHA_PIECE_ZEROS = 2 };
enum { RHA_UNDO_ENTRY_BYTES = 16 };

/* One entry of an undo table, as it stands in the file (little endian). Data follows in the order of the table. */
struct rha_undo_entry {
  uint64_t offset; /* bytes, on the disk */
  uint32_t length; /* bytes */
  uint16_t disk;
  uint16_t kind; /* enum rha_piece_kind */
};

/* The parts of these extents that are not in the sets (one for each disk) yet, in order, at most 1 GiB each, as data.
 * Returns how many there are; only the first `room` of them are in `rows`. */
size_t rha_undo_first_touches(rha_sectors *const *touched, const struct rha_extent *extents, size_t count,
                              struct rha_undo_entry *rows, size_t room);
/* Adds these rows to the sets. -1 without memory. */
int rha_undo_touch(rha_sectors *const *touched, const struct rha_undo_entry *rows, size_t count);
/* Packs `count` ranges (kind ignored) whose old content stands in `data`, one behind the other: 4 KiB units that are all
 * zeros become entries without data, the rest moves together at the beginning of `data`. A data entry is at most
 * `longest` bytes. `packed` has room for the sum of (length / 4096 + 2). Returns the number of entries; *data_length is
 * what is left of the data. */
size_t rha_undo_pack(const struct rha_undo_entry *ranges, size_t count, uint8_t *data, uint32_t longest,
                     struct rha_undo_entry *packed, size_t *data_length);
/* 0 when every entry lies on its disk, is made of whole sectors, and the data of all is `data_length` bytes. */
int rha_undo_check(const struct rha_undo_entry *table, size_t count, uint64_t data_length, uint32_t disks,
                   const uint64_t *disk_bytes);
/* cffi:end */

#endif
