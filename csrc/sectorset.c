#include "sectorset.h"

#include <stdlib.h>
#include <string.h>

#include "record.h"

#define CHUNK_SECTORS 2048 /* 1 MiB */
#define CHUNK_WORDS (CHUNK_SECTORS / 64)

typedef struct {
  uint64_t word[CHUNK_WORDS];
} chunk;

static chunk whole; /* stands for every chunk that is written all over; never written to, never freed */

struct rha_sectors {
  uint64_t sectors, chunks, allocated;
  chunk *at[];
};

rha_sectors *rha_sectors_new(uint64_t disk_bytes) {
  uint64_t sectors = disk_bytes / RHA_SECTOR, chunks = (sectors + CHUNK_SECTORS - 1) / CHUNK_SECTORS;
  rha_sectors *set = calloc(1, sizeof(*set) + chunks * sizeof(chunk *));
  if (!set) return NULL;
  set->sectors = sectors;
  set->chunks = chunks;
  return set;
}

void rha_sectors_free(rha_sectors *set) {
  if (!set) return;
  for (uint64_t i = 0; i < set->chunks; i++)
    if (set->at[i] != &whole) free(set->at[i]);
  free(set);
}

uint64_t rha_sectors_memory(const rha_sectors *set) {
  return sizeof(*set) + set->chunks * sizeof(chunk *) + set->allocated * sizeof(chunk);
}

/* Sets bits [first, end) of one chunk. */
static int add_to_chunk(rha_sectors *set, uint64_t index, uint32_t first, uint32_t end) {
  chunk *c = set->at[index];
  if (c == &whole) return 0;
  if (first == 0 && end == CHUNK_SECTORS) {
    if (c) set->allocated--;
    free(c);
    set->at[index] = &whole;
    return 0;
  }
  if (!c) {
    c = set->at[index] = calloc(1, sizeof(*c));
    if (!c) return -1;
    set->allocated++;
  }
  for (uint32_t word = first / 64; word <= (end - 1) / 64; word++) {
    uint64_t mask = ~0ull;
    if (word == first / 64) mask <<= first & 63;
    if (word == (end - 1) / 64) mask &= ~0ull >> (63 - ((end - 1) & 63));
    c->word[word] |= mask;
  }
  return 0;
}

int rha_sectors_add(rha_sectors *set, uint64_t first, uint64_t end) {
  if (end > set->sectors) end = set->sectors;
  while (first < end) {
    uint64_t index = first / CHUNK_SECTORS, begin = index * CHUNK_SECTORS;
    uint64_t stop = end < begin + CHUNK_SECTORS ? end : begin + CHUNK_SECTORS;
    if (add_to_chunk(set, index, first - begin, stop - begin)) return -1;
    first = stop;
  }
  return 0;
}

int rha_sectors_add_run(rha_sectors *set, uint32_t disk, const void *run, size_t length) {
  const char *at = run, *end = at + length;
  while (at < end) {
    uint32_t header;
    struct rha_record record;
    memcpy(&header, at, sizeof(header));
    if (!(header & RHA_RING_DISCARD)) {
      memcpy(&record, at + RHA_RING_HEADER, sizeof(record));
      uint64_t sectors = record.bytes / RHA_SECTOR;
      if (record.disk == disk && record.op != RHA_FLUSH && rha_sectors_add(set, record.sector, record.sector + sectors))
        return -1;
    }
    uint64_t size = (header & ~(RHA_RING_BUSY | RHA_RING_DISCARD)) + RHA_RING_HEADER;
    at += (size + 7) & ~7ull;
  }
  return 0;
}

/* First sector at or after `from` whose membership is `wanted`; at most `end`. */
static uint64_t find(const rha_sectors *set, uint64_t from, uint64_t end, int wanted) {
  while (from < end) {
    const chunk *c = set->at[from / CHUNK_SECTORS];
    uint64_t next_chunk = (from / CHUNK_SECTORS + 1) * CHUNK_SECTORS;
    if (!c || c == &whole) {
      if ((c == &whole) == wanted) return from;
      from = next_chunk;
      continue;
    }
    uint64_t word = c->word[from % CHUNK_SECTORS / 64], rest = (wanted ? word : ~word) >> (from & 63);
    if (rest) {
      from += __builtin_ctzll(rest);
      return from < end ? from : end;
    }
    from = (from | 63) + 1;
  }
  return end;
}

uint64_t rha_sectors_next_absent(const rha_sectors *set, uint64_t from, uint64_t end, uint64_t *first) {
  if (end > set->sectors) end = set->sectors;
  *first = find(set, from, end, 0);
  return *first < end ? find(set, *first, end, 1) - *first : 0;
}
