/* What undo files keep, and where the content of an earlier point is found.
 *
 * Packing: old content, read before it is overwritten, becomes a table of entries and the data that is not zero.
 *
 * Map: for each disk non-overlapping pieces, each a place in a numbered block (an undo block or a journal frame) or
 * zeros. A piece is only put where nothing is yet, so what is put first wins: to show a point, the journal is put
 * newest record first, then the undo files, oldest first. What is in no piece is in the image. */
#ifndef RHA_POINTMAP_H
#define RHA_POINTMAP_H
#include <stddef.h>
#include <stdint.h>

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

/* `at`: byte in the block, valid iff `kind` is RHA_PIECE_DATA. */
struct rha_piece {
  uint64_t offset;
  uint32_t length;
  uint32_t block;
  uint32_t at;
  uint32_t kind;
};

/* Packs `count` ranges (kind ignored) whose old content stands in `data`, one behind the other: 4 KiB units that are all
 * zeros become entries without data, the rest moves together at the beginning of `data`. A data entry is at most
 * `longest` bytes. `packed` has room for the sum of (length / 4096 + 2). Returns the number of entries; *data_length is
 * what is left of the data. */
size_t rha_undo_pack(const struct rha_undo_entry *ranges, size_t count, uint8_t *data, uint32_t longest,
                     struct rha_undo_entry *packed, size_t *data_length);
/* 0 when every entry lies on its disk, is made of whole sectors, and the data of all is `data_length` bytes. */
int rha_undo_check(const struct rha_undo_entry *table, size_t count, uint64_t data_length, uint32_t disks,
                   const uint64_t *disk_bytes);

typedef struct rha_map rha_map;

/* An empty map for disks of these sizes (bytes), or NULL without memory. */
rha_map *rha_map_new(uint32_t disks, const uint64_t *disk_bytes);
void rha_map_free(rha_map *map);
/* Each puts what is absent yet; -1 without memory. Lookups see it after `rha_map_settle`. */
int rha_map_put(rha_map *map, uint32_t disk, uint64_t offset, uint64_t length, uint32_t kind, uint32_t block,
                uint32_t at);
/* A checked undo table; its data is block `block`. */
int rha_map_put_table(rha_map *map, const struct rha_undo_entry *table, size_t count, uint32_t block);
/* The records of a checked run, the newest first. */
int rha_map_put_run(rha_map *map, const void *run, size_t length, uint32_t block);
/* Sorts what was put since the last time. -1 without memory. */
int rha_map_settle(rha_map *map);
/* All pieces of one disk, sorted; valid until the next put, settle or free. */
const struct rha_piece *rha_map_pieces(const rha_map *map, uint32_t disk, size_t *count);
/* Index of the first piece that ends behind `offset`. */
size_t rha_map_find(const rha_map *map, uint32_t disk, uint64_t offset);

/* Length of the longest prefix of a run (rha_run_check accepted it) whose records all end at or before `limit` bytes,
 * and, with `until_ns`, were submitted at or before that CLOCK_MONOTONIC; 0 means any time. */
size_t rha_run_prefix(const void *run, size_t length, size_t limit, uint64_t until_ns);
/* cffi:end */

#endif
