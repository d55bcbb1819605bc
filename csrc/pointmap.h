/* Where the content of an earlier point is found.
 *
 * For each disk non-overlapping pieces, each a place in a numbered block (an undo block or a journal frame) or
 * zeros. A piece is only put where nothing is yet, so what is put first wins: to show a point, the journal is put
 * newest record first, then the undo files, oldest first. What is in no piece is in the image. */
#ifndef RHA_POINTMAP_H
#define RHA_POINTMAP_H
#include <stddef.h>
#include <stdint.h>

#include "undo.h"

/* cffi:begin */
/* `at`: byte in the block, valid iff `kind` is RHA_PIECE_DATA. */
struct rha_piece {
  uint64_t offset;
  uint32_t length;
  uint32_t block;
  uint32_t at;
  uint32_t kind;
};

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

/* Copies the content of data pieces to `out`: piece i from block `which[i]` of `blocks` to byte `to[i]`. 0, or -1 when one
 * does not lie in its block (`lengths`) or would end beyond `room`. */
int rha_pieces_gather(const struct rha_piece *pieces, size_t count, const uint32_t *which, const uint64_t *to,
                      uint8_t *const *blocks, const uint64_t *lengths, uint8_t *out, uint64_t room);

/* Where a block's bytes stand: in an open file, from byte `begin` on. */
struct rha_place {
  uint64_t begin;
  uint64_t length;
  int32_t file;
  int32_t unused;
};

/* The same from files, `which[i]` being an index of `places`. Neighbours in a file are read at once, so the pieces should be
 * sorted by that; each byte is read once at most, and a little for nothing between two. 0, an errno, or -1 as above, or when a
 * file ends too soon. */
int rha_pieces_read(const struct rha_piece *pieces, size_t count, const uint32_t *which, const uint64_t *to,
                    const struct rha_place *places, uint8_t *out, uint64_t room);

/* Length of the longest prefix of a run (rha_run_check accepted it) whose records all end at or before `limit` bytes,
 * and, with `until_ns`, were submitted at or before that CLOCK_MONOTONIC; 0 means any time. */
size_t rha_run_prefix(const void *run, size_t length, size_t limit, uint64_t until_ns);
/* cffi:end */

#endif
