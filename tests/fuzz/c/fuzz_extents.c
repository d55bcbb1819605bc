/* Runs of ring records from a stranger, mixed with ranges and zeros: refused, or reduced to extents that lie on their
 * disks, do not overlap, and hold at every byte what the last write put there. */
#include <stdlib.h>

#include "extents.h"
#include "input.h"
#include "record.h"

#define DISKS 2
#define DISK_BYTES 8192
#define ROUNDS 16

static const uint64_t sizes[DISKS] = {DISK_BYTES, DISK_BYTES / 2};

/* What the disks hold after all writes; 0: never written, 1: zeros, else a byte of data + 2. */
static uint16_t model[DISKS][DISK_BYTES];

static void put(uint32_t disk, uint64_t offset, uint64_t length, const uint8_t *data) {
  for (uint64_t i = 0; i < length; i++) model[disk][offset + i] = data ? data[i] + 2 : 1;
}

/* The model's own reading of a run that was accepted. */
static void put_run(const uint8_t *run, size_t length) {
  for (size_t at = 0; at < length;) {
    uint32_t word;
    struct rha_record record;
    memcpy(&word, run + at, 4);
    size_t body = word & 0x3fffffff;
    if (!(word & RHA_RING_DISCARD)) {
      memcpy(&record, run + at + 8, sizeof(record));
      if (record.op == RHA_WRITE) put(record.disk, record.sector * 512, record.bytes, run + at + 8 + sizeof(record));
      else if (record.op != RHA_FLUSH) put(record.disk, record.sector * 512, record.bytes, NULL);
    }
    at += 8 + (body + 7) / 8 * 8;
  }
}

static void check(struct rha_batch *batch) {
  size_t count, length;
  const struct rha_extent *extents = rha_batch_extents(batch, &count);
  const uint8_t *data = rha_batch_data(batch, &length);

  for (size_t i = 0; i < count; i++) {
    const struct rha_extent *one = &extents[i];
    if (one->disk >= DISKS || one->offset + one->length > sizes[one->disk] || !one->length) abort();
    if (i && one->disk == one[-1].disk && one->offset < one[-1].offset + one[-1].length) abort();
    if (one->kind == RHA_EXTENT_DATA && one->data + one->length > length) abort();
    for (uint64_t j = 0; j < one->length; j++) {
      uint16_t *cell = &model[one->disk][one->offset + j];
      if (*cell != (one->kind == RHA_EXTENT_DATA ? data[one->data + j] + 2 : 1)) abort();
      *cell = 0;
    }
  }
  for (int disk = 0; disk < DISKS; disk++)
    for (int i = 0; i < DISK_BYTES; i++)
      if (model[disk][i]) abort(); /* written, and in no extent */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, size};
  struct rha_batch *batch = rha_batch_new(DISKS, sizes);
  uint8_t *kept[ROUNDS] = {0};

  if (!batch) return 0;
  memset(model, 0, sizeof(model));
  for (int round = 0; round < ROUNDS && in.left; round++) {
    uint8_t what = take8(&in), disk = take8(&in) % 3;
    size_t length = take8(&in) | (size_t)(take8(&in) & 31) << 8;
    uint64_t offset = take64(&in);
    if (what & 4) offset %= DISK_BYTES;
    if (length > in.left) length = in.left;
    uint8_t *bytes = kept[round] = malloc(length + 1);
    take(&in, bytes, length);
    struct rha_run found;
    if (what % 3 == 0 && rha_batch_add_records(batch, bytes, length, &found) == RHA_BATCH_OK) put_run(bytes, length);
    if (what % 3 == 1 && rha_batch_add_range(batch, disk, offset, bytes, length) == RHA_BATCH_OK)
      put(disk, offset, length, bytes);
    if (what % 3 == 2 && rha_batch_add_zeros(batch, disk, offset, length) == RHA_BATCH_OK)
      put(disk, offset, length, NULL);
  }
  if (rha_batch_reduce(batch) == RHA_BATCH_OK) check(batch);
  rha_batch_free(batch);
  for (int round = 0; round < ROUNDS; round++) free(kept[round]);
  return 0;
}
