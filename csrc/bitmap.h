/* Dirty bitmaps: planes of u64 words, one bit per 64 KiB. The kernel sets bits of `dirty` at any moment, so bits leave it
 * only by atomic operations, and only after they stand in `pending`: a kill in between leaves a bit too many, never one
 * too few. */
#ifndef RHA_BITMAP_H
#define RHA_BITMAP_H
#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
/* Moves all set bits of `from` into `to`. Returns how many were set in `from`. */
uint64_t rha_bits_move(uint64_t *from, uint64_t *to, size_t words);
uint64_t rha_bits_count(const uint64_t *plane, size_t words);
/* Sets, clears bits [first, first + count). */
void rha_bits_set(uint64_t *plane, uint64_t first, uint64_t count);
void rha_bits_clear(uint64_t *plane, uint64_t first, uint64_t count);
/* The next run of set bits at or after `from`, at most `longest` bits: its length, its first bit in *first; 0: none. */
uint64_t rha_bits_next_run(const uint64_t *plane, uint64_t bits, uint64_t from, uint64_t longest, uint64_t *first);
/* cffi:end */

#endif
