/* Runs of records outside the ring, under ASan and UBSan: sound ones are cut at records, whatever else there is never leads
 * outside the buffer. Usage: test_ring [ROUNDS [SEED]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "record.h"
#include "ring.h"

#define CHECK(condition)                                                          \
  do {                                                                            \
    if (!(condition)) {                                                           \
      fprintf(stderr, "line %d: %s (seed %u)\n", __LINE__, #condition, seed);     \
      exit(1);                                                                    \
    }                                                                             \
  } while (0)

static unsigned seed;

/* Puts one record of `payload` bytes at `to`; returns what it takes. */
static uint64_t put(char *to, uint32_t payload, uint64_t time_ns) {
  uint32_t head[2] = {sizeof(struct rha_record) + payload, 0};
  struct rha_record record = {.bytes = payload, .op = RHA_WRITE, .time_ns = time_ns};
  memcpy(to, head, sizeof(head));
  memcpy(to + RHA_RING_HEADER, &record, sizeof(record));
  return (RHA_RING_HEADER + head[0] + 7) & ~7ull;
}

static void sound(void) {
  uint64_t begin = (uint64_t)rand() << 20, length = 0;
  int records = 1 + rand() % 20;
  char *all = calloc(records, 8192);
  for (int i = 0; i < records; i++) length += put(all + length, rand() % 8 * 512, i + 1);
  char *run = malloc(length); /* of exactly its length: ASan sees the first byte too many */
  memcpy(run, all, length);
  uint64_t at = begin, max = 1 + rand() % 9000, seen = 0;
  while (at < begin + length) {
    rha_region region;
    CHECK(rha_run_next(run, begin, begin + length, at, max, ~0ull, &region) == 0);
    CHECK(region.begin == at && region.end > at && region.data == run + (at - begin));
    CHECK(region.end - at <= max || region.records == 1);
    seen += region.records;
    at = region.end;
  }
  CHECK(seen == (uint64_t)records && at == begin + length);
  free(run);
  free(all);
}

static void hostile(void) {
  uint64_t begin = (uint64_t)rand() << 20, length = rand() % 300;
  char *run = malloc(length ? length : 1);
  for (uint64_t i = 0; i < length; i++) run[i] = rand() % 3 ? 0 : rand();
  uint64_t at = begin + (length ? rand() % (length + 20) : 0) / 8 * 8;
  rha_region region;
  if (rha_run_next(run, begin, begin + length, at, 1 + rand() % 400, begin + rand() % 400, &region) == 0)
    CHECK(region.begin == at && region.end <= begin + length);
  free(run);
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 20000;
  unsigned first = argc > 2 ? atoi(argv[2]) : 1;
  for (int i = 0; i < rounds; i++) {
    seed = first + i;
    srand(seed);
    sound();
    hostile();
  }
  printf("ring: %d rounds\n", rounds);
  return 0;
}
