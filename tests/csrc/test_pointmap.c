/* rha_map and rha_undo_pack against byte arrays, with random overlapping pieces. Run by run.sh under ASan and UBSan. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pointmap.h"
#include "record.h"

#define SECTORS 96
#define BYTES (SECTORS * RHA_SECTOR)
#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      fprintf(stderr, "%s:%d: not so: %s (seed %u)\n", __FILE__, __LINE__, #condition, seed); \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

static unsigned seed, state;

static unsigned draw(unsigned below) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % below;
}

/* What was put first stays; pieces are sorted, do not overlap, and point at the right byte of their block. */
static void check_map(void) {
  uint64_t size = BYTES;
  rha_map *map = rha_map_new(1, &size);
  uint32_t owner[SECTORS] = {0}, place[SECTORS] = {0};
  size_t count, covered = 0;

  for (uint32_t block = 1; block < 30; block++) {
    uint32_t first = draw(SECTORS), length = 1 + draw(SECTORS - first), at = draw(1000);
    uint32_t kind = draw(3) ? RHA_PIECE_DATA : RHA_PIECE_ZEROS;
    CHECK(!rha_map_put(map, 0, first * RHA_SECTOR, (uint64_t)length * RHA_SECTOR, kind, block, at));
    for (uint32_t n = first; n < first + length; n++) {
      if (owner[n]) continue;
      owner[n] = block;
      place[n] = kind == RHA_PIECE_DATA ? at + (n - first) * RHA_SECTOR : 0;
    }
    if (draw(4)) continue;
    CHECK(!rha_map_settle(map));
  }
  CHECK(!rha_map_settle(map));
  const struct rha_piece *pieces = rha_map_pieces(map, 0, &count);
  for (size_t n = 0; n < count; n++) {
    CHECK(!n || pieces[n - 1].offset + pieces[n - 1].length <= pieces[n].offset);
    for (uint32_t byte = 0; byte < pieces[n].length; byte += RHA_SECTOR, covered++) {
      size_t sector = (pieces[n].offset + byte) / RHA_SECTOR;
      CHECK(owner[sector] == pieces[n].block);
      CHECK(place[sector] == (pieces[n].kind == RHA_PIECE_DATA ? pieces[n].at + byte : 0));
      CHECK(rha_map_find(map, 0, sector * RHA_SECTOR) == n);
    }
  }
  for (size_t n = 0; n < SECTORS; n++) covered -= owner[n] != 0;
  CHECK(covered == 0);
  rha_map_free(map);
}

/* Packed and unpacked again it is the same bytes; the table is one that rha_undo_check accepts. */
static void check_pack(void) {
  struct rha_undo_entry ranges[8];
  uint64_t size = 1 << 20;
  uint8_t disk[1 << 20] = {0}, back[1 << 20] = {0}, mask[1 << 20] = {0};
  size_t count = 1 + draw(8), total = 0, room = 0, left;

  for (size_t n = 0; n < sizeof(disk); n += RHA_SECTOR)
    if (!draw(6)) memset(disk + n, 1 + draw(255), RHA_SECTOR);
  for (size_t n = 0, at = 0; n < count; n++) {
    at += draw(20) * RHA_SECTOR;
    ranges[n] = (struct rha_undo_entry){at, (1 + draw(100)) * RHA_SECTOR, 0, 0};
    at += ranges[n].length;
    total += ranges[n].length;
    room += ranges[n].length / 4096 + 2;
  }
  uint8_t *data = malloc(total);
  struct rha_undo_entry *packed = malloc(room * sizeof(*packed));
  for (size_t n = 0, at = 0; n < count; at += ranges[n++].length) memcpy(data + at, disk + ranges[n].offset, ranges[n].length);
  size_t entries = rha_undo_pack(ranges, count, data, 16384, packed, &left);
  CHECK(entries <= room && !rha_undo_check(packed, entries, left, 1, &size));
  for (size_t n = 0, at = 0; n < entries; n++) {
    CHECK(packed[n].kind == RHA_PIECE_ZEROS || packed[n].length <= 16384);
    memset(mask + packed[n].offset, 1, packed[n].length);
    if (packed[n].kind == RHA_PIECE_ZEROS) continue;
    memcpy(back + packed[n].offset, data + at, packed[n].length);
    at += packed[n].length;
  }
  for (size_t n = 0; n < count; n++) {
    CHECK(!memcmp(back + ranges[n].offset, disk + ranges[n].offset, ranges[n].length));
    CHECK(mask[ranges[n].offset] && mask[ranges[n].offset + ranges[n].length - 1]);
  }
  packed[0].offset = size;
  CHECK(rha_undo_check(packed, entries, left, 1, &size));
  free(packed);
  free(data);
}

int main(int argc, char **argv) {
  unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 300, begin = argc > 2 ? (unsigned)atoi(argv[2]) : 1;

  for (seed = begin; seed < begin + rounds; seed++) {
    state = seed;
    check_map();
    check_pack();
  }
  printf("pointmap: %u rounds\n", rounds);
  return 0;
}
