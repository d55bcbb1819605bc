#include "bitmap.h"

uint64_t rha_bits_move(uint64_t *from, uint64_t *to, size_t words) {
  uint64_t moved = 0;
  for (size_t i = 0; i < words; i++) {
    uint64_t bits = __atomic_load_n(&from[i], __ATOMIC_ACQUIRE);
    if (!bits) continue;
    __atomic_fetch_or(&to[i], bits, __ATOMIC_SEQ_CST);
    __atomic_fetch_and(&from[i], ~bits, __ATOMIC_SEQ_CST);
    moved += __builtin_popcountll(bits);
  }
  return moved;
}

uint64_t rha_bits_count(const uint64_t *plane, size_t words) {
  uint64_t count = 0;
  for (size_t i = 0; i < words; i++) count += __builtin_popcountll(plane[i]);
  return count;
}

/* The part of word `word` that lies in [first, end). */
static uint64_t mask_of(uint64_t word, uint64_t first, uint64_t end) {
  uint64_t mask = ~0ull;
  if (word == first >> 6) mask <<= first & 63;
  if (word == (end - 1) >> 6) mask &= ~0ull >> (63 - ((end - 1) & 63));
  return mask;
}

void rha_bits_set(uint64_t *plane, uint64_t first, uint64_t count) {
  if (!count) return;
  for (uint64_t word = first >> 6; word <= (first + count - 1) >> 6; word++)
    __atomic_fetch_or(&plane[word], mask_of(word, first, first + count), __ATOMIC_SEQ_CST);
}

void rha_bits_clear(uint64_t *plane, uint64_t first, uint64_t count) {
  if (!count) return;
  for (uint64_t word = first >> 6; word <= (first + count - 1) >> 6; word++)
    __atomic_fetch_and(&plane[word], ~mask_of(word, first, first + count), __ATOMIC_SEQ_CST);
}

/* First bit at or after `from` that is set (flip 0) or clear (flip ~0); `bits` when none. */
static uint64_t find(const uint64_t *plane, uint64_t bits, uint64_t from, uint64_t flip) {
  while (from < bits) {
    uint64_t rest = (plane[from >> 6] ^ flip) >> (from & 63);
    if (rest) {
      from += __builtin_ctzll(rest);
      return from < bits ? from : bits;
    }
    from = (from | 63) + 1;
  }
  return bits;
}

uint64_t rha_bits_next_run(const uint64_t *plane, uint64_t bits, uint64_t from, uint64_t longest, uint64_t *first) {
  *first = find(plane, bits, from, 0);
  if (*first == bits) return 0;
  uint64_t end = find(plane, bits, *first, ~0ull);
  return end - *first < longest ? end - *first : longest;
}
