/* rha_map, rha_undo_pack and rha_pieces_read against byte arrays, with random pieces. Run by run.sh under ASan and UBSan. */
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

/* What is read from files is what the blocks hold there, whatever lies between two pieces; nothing else is touched. */
static void check_read(void) {
  enum { FILES = 2, BLOCKS = 3, FILE_BYTES = 200000, PIECES = 600, OUT = 1 << 20 };
  static uint8_t content[FILES][FILE_BYTES], out[OUT], wanted[OUT];
  static struct rha_piece pieces[PIECES];
  static uint32_t which[PIECES];
  static uint64_t to[PIECES];
  struct rha_place places[FILES * BLOCKS];
  FILE *file[FILES];
  size_t count = 0, target = 0;

  for (int f = 0; f < FILES; f++) {
    for (size_t n = 0; n < FILE_BYTES; n++) content[f][n] = (uint8_t)draw(256);
    CHECK((file[f] = tmpfile()) && fwrite(content[f], FILE_BYTES, 1, file[f]) == 1 && !fflush(file[f]));
    for (uint32_t b = 0; b < BLOCKS; b++)
      places[f * BLOCKS + b] = (struct rha_place){b * 60000 + draw(5000), 55000, fileno(file[f]), 0};
  }
  memset(out, 0, sizeof(out));
  memset(wanted, 0, sizeof(wanted));
  for (uint32_t b = 0; b < FILES * BLOCKS; b++)
    for (uint32_t at = draw(2) ? draw(30000) : 0; count < PIECES; at += draw(3) ? 0 : draw(20000)) {
      uint32_t length = 1 + draw(draw(2) ? 600 : 6000);
      if (at + length > places[b].length) break;
      target += draw(2) ? 0 : draw(50);
      pieces[count] = (struct rha_piece){0, length, b, at, RHA_PIECE_DATA};
      which[count] = b;
      to[count++] = target;
      memcpy(wanted + target, content[b / BLOCKS] + places[b].begin + at, length);
      at += length;
      target += length;
    }
  CHECK(target < OUT && !rha_pieces_read(pieces, count, which, to, places, out, OUT));
  CHECK(!memcmp(out, wanted, OUT));
  if (count) {
    CHECK(rha_pieces_read(pieces, count, which, to, places, out, to[count - 1]) == -1);
    places[which[0]].begin = FILE_BYTES - pieces[0].at - pieces[0].length + 1;
    CHECK(rha_pieces_read(pieces, 1, which, to, places, out, OUT) == -1);
    places[which[0]].length = pieces[0].at + pieces[0].length - 1;
    CHECK(rha_pieces_read(pieces, 1, which, to, places, out, OUT) == -1);
  }
  for (int f = 0; f < FILES; f++) fclose(file[f]);
}

int main(int argc, char **argv) {
  unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 300, begin = argc > 2 ? (unsigned)atoi(argv[2]) : 1;

  for (seed = begin; seed < begin + rounds; seed++) {
    state = seed;
    check_map();
    check_pack();
    check_read();
  }
  printf("pointmap: %u rounds\n", rounds);
  return 0;
}
