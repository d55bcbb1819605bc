/* Sets of sectors and the packing of old content, driven by any ranges: the set is what a plain array of bits says, and
 * what is packed can be unpacked to what it was. */
#include <stdlib.h>

#include "extents.h"
#include "input.h"
#include "record.h"
#include "sectorset.h"
#include "undo.h"

#define SECTORS 6000 /* three chunks, the last one in part */
#define BYTES (SECTORS * 512ull)
#define MOST (16 * 4096)

static uint8_t model[SECTORS];

static void sets(struct input *in) {
  rha_sectors *set = rha_sectors_new(BYTES);

  if (!set) return;
  memset(model, 0, sizeof(model));
  for (int round = 0; round < 64 && in->left; round++) {
    uint8_t what = take8(in);
    uint64_t first = take64(in), end = take64(in), at;
    if (what & 1) first %= SECTORS + 8, end %= SECTORS + 8;
    if (what & 2) {
      if (rha_sectors_add(set, first, end)) break;
      for (uint64_t i = first; i < end && i < SECTORS; i++) model[i] = 1;
    }
    uint64_t count = rha_sectors_next_absent(set, first, end, &at);
    uint64_t wanted = first;
    while (wanted < end && wanted < SECTORS && model[wanted]) wanted++;
    if (wanted >= end || wanted >= SECTORS) {
      if (count) abort();
      continue;
    }
    if (!count || at != wanted || at + count > SECTORS || at + count > end) abort();
    for (uint64_t i = at; i < at + count; i++)
      if (model[i]) abort();
    if (at + count < end && at + count < SECTORS && !model[at + count]) abort();
  }
  rha_sectors_free(set);
}

static void packs(struct input *in) {
  uint8_t old[MOST], data[MOST], back[MOST];
  struct rha_undo_entry ranges[8], packed[8 * 24];
  size_t count = 0, used = 0, left;

  while (count < 8 && in->left) {
    uint32_t length = 512u * (1 + take8(in) % 16), fill = take8(in);
    ranges[count] = (struct rha_undo_entry){512ull * (take64(in) % 1000000), length, take8(in) % 2, 0};
    if (fill & 1) take(in, old + used, length);
    else memset(old + used, 0, length);
    used += length;
    count++;
  }
  memcpy(data, old, used);
  size_t entries = rha_undo_pack(ranges, count, data, 8192, packed, &left);
  uint64_t sizes[2] = {1ull << 40, 1ull << 40};
  if (left > used || rha_undo_check(packed, entries, left, 2, sizes)) abort();
  size_t from = 0, to = 0;
  for (size_t i = 0; i < entries; i++) {
    if (to + packed[i].length > used) abort();
    if (packed[i].kind == RHA_PIECE_DATA) {
      if (packed[i].length > 8192 && packed[i].length > 4096) abort();
      memcpy(back + to, data + from, packed[i].length);
      from += packed[i].length;
    } else {
      memset(back + to, 0, packed[i].length);
    }
    to += packed[i].length;
  }
  if (to != used || from != left || memcmp(back, old, used)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, size};

  if (take8(&in) & 1) packs(&in);
  else sets(&in);
  return 0;
}
