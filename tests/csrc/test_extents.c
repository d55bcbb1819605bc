/* rha_batch against a byte array that is written straight, with random, overlapping and hostile runs. Run by run.sh under
 * ASan and UBSan; input buffers are malloc'ed to their exact length, so that one byte read too far is seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "extents.h"
#include "record.h"

#define DISKS 3
#define SECTORS 96
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

/* Writes one record to `out`; returns its length in the run. */
static size_t put_record(uint8_t *out, struct rha_record record, uint8_t fill) {
  size_t body = sizeof(record) + (record.op == RHA_WRITE ? record.bytes : 0);
  uint32_t header[2] = {(uint32_t)body, 0};

  memcpy(out, header, 8);
  memcpy(out + 8, &record, sizeof(record));
  memset(out + 8 + sizeof(record), fill, body - sizeof(record));
  return 8 + ((body + 7) & ~(size_t)7);
}

static void apply(uint8_t model[DISKS][SECTORS * RHA_SECTOR], const struct rha_batch *batch) {
  size_t count, length;
  const struct rha_extent *extents = rha_batch_extents(batch, &count);
  const uint8_t *data = rha_batch_data(batch, &length);

  for (size_t i = 0; i < count; i++) {
    const struct rha_extent *e = &extents[i], *before = i ? e - 1 : NULL;
    CHECK(e->length && e->offset + e->length <= SECTORS * RHA_SECTOR && e->disk < DISKS);
    if (before && before->disk == e->disk) {
      CHECK(before->offset + before->length <= e->offset);
      CHECK(before->kind != e->kind || before->offset + before->length < e->offset);
    } else if (before) {
      CHECK(before->disk < e->disk);
    }
    if (e->kind == RHA_EXTENT_ZEROS) {
      memset(model[e->disk] + e->offset, 0, e->length);
      continue;
    }
    CHECK(e->kind == RHA_EXTENT_DATA && e->data + e->length <= length);
    memcpy(model[e->disk] + e->offset, data + e->data, e->length);
  }
}

static void random_batch(void) {
  static uint8_t straight[DISKS][SECTORS * RHA_SECTOR], reduced[DISKS][SECTORS * RHA_SECTOR];
  uint64_t sizes[DISKS] = {SECTORS * RHA_SECTOR, SECTORS * RHA_SECTOR, SECTORS * RHA_SECTOR};
  struct rha_batch *batch = rha_batch_new(DISKS, sizes);
  uint8_t *runs[64];
  unsigned frames = draw(64);

  memset(straight, 0xee, sizeof(straight));
  memset(reduced, 0xee, sizeof(reduced));
  for (unsigned i = 0; i < frames; i++) {
    unsigned sector = draw(SECTORS), sectors = draw(SECTORS - sector < 12 ? SECTORS - sector + 1 : 12);
    uint16_t disk = (uint16_t)draw(DISKS);
    uint8_t op = (uint8_t)(1 + draw(5)), fill = (uint8_t)(1 + draw(200));
    struct rha_record record = {sector, sectors * RHA_SECTOR, disk, op, 0, i};
    struct rha_run found;
    uint8_t *wide = malloc(64 + sectors * RHA_SECTOR);
    size_t length = put_record(wide, record, fill);
    runs[i] = realloc(wide, length);
    CHECK(rha_batch_add_records(batch, runs[i], length, &found) == 0);
    CHECK(found.records == 1 && found.offset == length && found.time_ns == i);
    if (op != RHA_FLUSH) memset(straight[disk] + sector * 512, op == RHA_WRITE ? fill : 0, sectors * 512);
  }
  CHECK(rha_batch_reduce(batch) == 0);
  apply(reduced, batch);
  CHECK(memcmp(straight, reduced, sizeof(straight)) == 0);
  for (unsigned i = 0; i < frames; i++) free(runs[i]);
  rha_batch_free(batch);
}

/* Damages a good run in one byte, or cuts it: refused as a whole, or taken as a whole; never read beyond its end. */
static void hostile_run(void) {
  uint64_t sizes[DISKS] = {SECTORS * RHA_SECTOR, SECTORS * RHA_SECTOR, SECTORS * RHA_SECTOR};
  struct rha_batch *batch = rha_batch_new(DISKS, sizes);
  uint8_t wide[4096];
  size_t length = 0, count;
  struct rha_run found;

  for (int i = 0; i < 3; i++) {
    struct rha_record record = {draw(SECTORS - 2), 512, (uint16_t)draw(DISKS), (uint8_t)(1 + draw(5)), 0, 7};
    length += put_record(wide + length, record, 3);
  }
  if (draw(4) == 0) length = draw((unsigned)length);
  uint8_t *run = malloc(length ? length : 1);
  memcpy(run, wide, length);
  if (length && draw(4)) run[draw((unsigned)(length < 96 ? length : 96))] = (uint8_t)draw(256);
  int error = rha_batch_add_records(batch, run, length, &found);
  CHECK(rha_batch_reduce(batch) == 0);
  rha_batch_extents(batch, &count);
  CHECK(error <= 0 && (error == 0 || count == 0));
  CHECK(error ? found.offset < length : found.offset == length);
  free(run);
  rha_batch_free(batch);
}

static int refusal(struct rha_record record, uint32_t header, size_t length) {
  uint64_t size = 1 << 20;
  uint8_t wide[2048] = {0};
  struct rha_run found;

  put_record(wide, record, 1);
  if (header) memcpy(wide, &header, 4);
  uint8_t *run = malloc(length);
  memcpy(run, wide, length);
  int error = rha_run_check(run, length, 1, &size, &found);
  free(run);
  return error;
}

static void each_refusal(void) {
  struct rha_record good = {0, 512, 0, RHA_WRITE, 0, 1}, bad = good;

  CHECK(refusal(good, 0, 544) == 0);
  CHECK(refusal(good, 0, 543) == RHA_BATCH_CUT);
  CHECK(refusal(good, 0, 7) == RHA_BATCH_CUT);
  CHECK(refusal(good, 536 | RHA_RING_BUSY, 544) == RHA_BATCH_BUSY);
  CHECK(refusal(good, 536 | RHA_RING_DISCARD, 544) == 0);
  CHECK(refusal(good, 24 + 504, 536) == RHA_BATCH_LENGTH);
  CHECK(refusal(good, 24 + 520, 552) == RHA_BATCH_LENGTH);
  CHECK(refusal(good, 23, 32) == RHA_BATCH_LENGTH);
  CHECK(refusal(good, 0x3fffffff, 544) == RHA_BATCH_CUT);
  bad.op = 6;
  CHECK(refusal(bad, 0, 32) == RHA_BATCH_OP);
  bad.op = 0;
  CHECK(refusal(bad, 0, 32) == RHA_BATCH_OP);
  bad = good, bad.disk = 1;
  CHECK(refusal(bad, 0, 544) == RHA_BATCH_DISK);
  bad = good, bad.sector = 2048;
  CHECK(refusal(bad, 0, 544) == RHA_BATCH_RANGE);
  bad = good, bad.sector = UINT64_MAX / 512 + 1;
  CHECK(refusal(bad, 0, 544) == RHA_BATCH_RANGE);
  bad = good, bad.bytes = 520;
  CHECK(refusal(bad, 0, 552) == RHA_BATCH_ALIGNMENT);
  bad = (struct rha_record){0, 0xfffffe00u, 0, RHA_DISCARD, 0, 1};
  CHECK(refusal(bad, 0, 32) == RHA_BATCH_RANGE);
}

int main(int argc, char **argv) {
  unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 20000;
  unsigned base = argc > 2 ? (unsigned)atoi(argv[2]) : 1;

  each_refusal();
  for (seed = base; seed < base + rounds; seed++) {
    state = seed * 2654435761u;
    random_batch();
    hostile_run();
  }
  printf("extents: %u rounds\n", rounds);
  return 0;
}
