/* Bitmaps of any content, walked in runs: each run is what a look at every bit says. */
#include <stdlib.h>

#include "bitmap.h"
#include "input.h"

#define WORDS 8

static int bit(const uint64_t *plane, uint64_t at) { return plane[at >> 6] >> (at & 63) & 1; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, size};
  uint64_t plane[WORDS], other[WORDS], before[WORDS], bits = 1 + take8(&in) * 2ull, first = 0, count;
  uint64_t longest = 1 + take8(&in);

  if (bits > WORDS * 64) bits = WORDS * 64;
  take(&in, plane, sizeof(plane));
  take(&in, other, sizeof(other));
  for (int round = 0; round < 4; round++) {
    uint64_t from = take8(&in) * 2ull, many = take8(&in);
    if (from + many > WORDS * 64) continue;
    if (round & 1) rha_bits_set(plane, from, many);
    else rha_bits_clear(plane, from, many);
    for (uint64_t i = from; i < from + many; i++)
      if (bit(plane, i) != (round & 1)) abort();
  }
  for (uint64_t from = 0; (count = rha_bits_next_run(plane, bits, from, longest, &first)); from = first + count) {
    if (first < from || first + count > bits || count > longest) abort();
    for (uint64_t i = from; i < first; i++)
      if (bit(plane, i)) abort();
    for (uint64_t i = first; i < first + count; i++)
      if (!bit(plane, i)) abort();
  }
  memcpy(before, plane, sizeof(plane));
  uint64_t set = rha_bits_count(plane, WORDS);
  if (rha_bits_move(plane, other, WORDS) != set || rha_bits_count(plane, WORDS)) abort();
  for (int i = 0; i < WORDS; i++)
    if ((other[i] & before[i]) != before[i]) abort();
  return 0;
}
