#include "extents.h"

#include <stdlib.h>
#include <string.h>

#include "record.h"

/* One write of the batch. `data` is NULL for zeros; `order` counts the writes, the highest one wins. */
struct piece {
  uint64_t offset;
  uint64_t end;
  const uint8_t *data;
  uint32_t order;
  uint32_t disk;
};

struct rha_batch {
  uint32_t disks;
  uint64_t disk_bytes[RHA_MAX_DISKS];
  struct piece *pieces;
  size_t piece_count, piece_room;
  uint64_t data_bytes; /* of all pieces: no reduced batch can hold more */
  const struct piece **heap;
  size_t heap_count, heap_room;
  struct rha_extent *extents;
  size_t extent_count, extent_room;
  uint8_t *data;
  size_t data_length, data_room;
};

/* A record of a run, checked. `payload` is NULL when it has none; `next` is where the following one begins. */
struct cursor {
  struct rha_record record;
  const uint8_t *payload;
  size_t next;
  int discarded;
};

static int check_range(uint32_t disks, const uint64_t *disk_bytes, uint32_t disk, uint64_t offset, uint64_t length) {
  if (disk >= disks) return RHA_BATCH_DISK;
  if (offset > disk_bytes[disk] || length > disk_bytes[disk] - offset) return RHA_BATCH_RANGE;
  return RHA_BATCH_OK;
}

static int check_record(const struct cursor *at, size_t body, uint32_t disks, const uint64_t *disk_bytes) {
  const struct rha_record *record = &at->record;
  size_t wanted = sizeof(*record) + (record->op == RHA_WRITE ? record->bytes : 0);

  if (record->op < RHA_WRITE || record->op > RHA_FLUSH) return RHA_BATCH_OP;
  /* The probe may have rounded its reservation up to 8. */
  if (body < wanted || body - wanted >= 8) return RHA_BATCH_LENGTH;
  if (record->bytes % RHA_SECTOR) return RHA_BATCH_ALIGNMENT;
  if (record->sector > UINT64_MAX / RHA_SECTOR) return RHA_BATCH_RANGE;
  /* A flush changes nothing; some drivers leave any sector in an empty bio. */
  if (record->op == RHA_FLUSH) return record->disk < disks ? RHA_BATCH_OK : RHA_BATCH_DISK;
  return check_range(disks, disk_bytes, record->disk, record->sector * RHA_SECTOR, record->bytes);
}

/* Reads the record at `offset`; the run may lie at any address, so nothing is read through a cast. */
static int read_record(const uint8_t *run, size_t length, size_t offset, uint32_t disks, const uint64_t *disk_bytes,
                       struct cursor *at) {
  uint32_t word;
  size_t left = length - offset;

  if (left < RHA_RING_HEADER) return RHA_BATCH_CUT;
  memcpy(&word, run + offset, sizeof(word));
  if (word & RHA_RING_BUSY) return RHA_BATCH_BUSY;
  size_t body = word & ~RHA_RING_DISCARD;
  size_t step = RHA_RING_HEADER + ((body + 7) & ~(size_t)7);
  if (step > left) return RHA_BATCH_CUT;
  at->next = offset + step;
  at->discarded = (word & RHA_RING_DISCARD) != 0;
  if (at->discarded) return RHA_BATCH_OK;
  if (body < sizeof(at->record)) return RHA_BATCH_LENGTH;
  memcpy(&at->record, run + offset + RHA_RING_HEADER, sizeof(at->record));
  at->payload = at->record.op == RHA_WRITE ? run + offset + RHA_RING_HEADER + sizeof(at->record) : NULL;
  return check_record(at, body, disks, disk_bytes);
}

static int changes_disk(const struct rha_record *record) { return record->op != RHA_FLUSH && record->bytes != 0; }

int rha_run_check(const void *run, size_t length, uint32_t disks, const uint64_t *disk_bytes, struct rha_run *found) {
  struct cursor at;

  memset(found, 0, sizeof(*found));
  while (found->offset < length) {
    int error = read_record(run, length, found->offset, disks, disk_bytes, &at);
    if (error) return error;
    found->offset = at.next;
    if (at.discarded) {
      found->discarded++;
      continue;
    }
    found->records++;
    found->time_ns = at.record.time_ns;
    found->pieces += changes_disk(&at.record);
    if (at.payload) found->payload_bytes += at.record.bytes;
  }
  return RHA_BATCH_OK;
}

struct rha_batch *rha_batch_new(uint32_t disks, const uint64_t *disk_bytes) {
  struct rha_batch *batch = disks <= RHA_MAX_DISKS ? calloc(1, sizeof(*batch)) : NULL;

  if (!batch) return NULL;
  batch->disks = disks;
  if (disks) memcpy(batch->disk_bytes, disk_bytes, disks * sizeof(*disk_bytes));
  return batch;
}

void rha_batch_free(struct rha_batch *batch) {
  if (!batch) return;
  free(batch->pieces);
  free(batch->heap);
  free(batch->extents);
  free(batch->data);
  free(batch);
}

void rha_batch_clear(struct rha_batch *batch) {
  batch->piece_count = batch->extent_count = batch->data_length = 0;
  batch->data_bytes = 0;
}

/* Makes room for `wanted` elements of `size` bytes; what is there is kept. */
static int reserve(void **array, size_t *room, size_t wanted, size_t size) {
  size_t grown = *room * 2 > wanted ? *room * 2 : wanted;

  if (wanted <= *room) return RHA_BATCH_OK;
  void *moved = reallocarray(*array, grown, size);
  if (!moved) return RHA_BATCH_NO_MEMORY;
  *array = moved;
  *room = grown;
  return RHA_BATCH_OK;
}

static int reserve_pieces(struct rha_batch *batch, size_t more) {
  if (more > UINT32_MAX - batch->piece_count) return RHA_BATCH_NO_MEMORY; /* `order` is 32 bits wide */
  return reserve((void **)&batch->pieces, &batch->piece_room, batch->piece_count + more, sizeof(*batch->pieces));
}

static void put_piece(struct rha_batch *batch, uint32_t disk, uint64_t offset, uint64_t length, const uint8_t *data) {
  uint32_t order = (uint32_t)batch->piece_count;

  batch->pieces[batch->piece_count++] = (struct piece){offset, offset + length, data, order, disk};
  if (data) batch->data_bytes += length;
}

int rha_batch_add_records(struct rha_batch *batch, const void *run, size_t length, struct rha_run *found) {
  struct cursor at;
  int error = rha_run_check(run, length, batch->disks, batch->disk_bytes, found);

  if (!error) error = reserve_pieces(batch, found->pieces);
  for (size_t offset = 0; !error && offset < length; offset = at.next) {
    error = read_record(run, length, offset, batch->disks, batch->disk_bytes, &at);
    if (error || at.discarded || !changes_disk(&at.record)) continue;
    put_piece(batch, at.record.disk, at.record.sector * RHA_SECTOR, at.record.bytes, at.payload);
  }
  return error;
}

static int add_one(struct rha_batch *batch, uint32_t disk, uint64_t offset, uint64_t length, const uint8_t *data) {
  int error = check_range(batch->disks, batch->disk_bytes, disk, offset, length);

  if (!error && length) error = reserve_pieces(batch, 1);
  if (!error && length) put_piece(batch, disk, offset, length, data);
  return error;
}

int rha_batch_add_range(struct rha_batch *batch, uint32_t disk, uint64_t offset, const void *data, uint64_t length) {
  return add_one(batch, disk, offset, length, data);
}

int rha_batch_add_zeros(struct rha_batch *batch, uint32_t disk, uint64_t offset, uint64_t length) {
  return add_one(batch, disk, offset, length, NULL);
}

static int by_place(const void *left, const void *right) {
  const struct piece *a = left, *b = right;

  if (a->disk != b->disk) return a->disk < b->disk ? -1 : 1;
  return (a->offset > b->offset) - (a->offset < b->offset);
}

/* The heap: pieces that begin at or before the sweep's position, the newest on top. */
static void heap_push(struct rha_batch *batch, const struct piece *piece) {
  size_t at = batch->heap_count++;

  for (; at && batch->heap[(at - 1) / 2]->order < piece->order; at = (at - 1) / 2)
    batch->heap[at] = batch->heap[(at - 1) / 2];
  batch->heap[at] = piece;
}

static void heap_pop(struct rha_batch *batch) {
  const struct piece *last = batch->heap[--batch->heap_count];
  size_t at = 0, child;

  while ((child = 2 * at + 1) < batch->heap_count) {
    if (child + 1 < batch->heap_count && batch->heap[child + 1]->order > batch->heap[child]->order) child++;
    if (batch->heap[child]->order < last->order) break;
    batch->heap[at] = batch->heap[child];
    at = child;
  }
  batch->heap[at] = last;
}

/* Appends [from, to) of a piece to the result. The sweep goes upwards, so a neighbour's data lies next to it. */
static void emit(struct rha_batch *batch, const struct piece *piece, uint64_t from, uint64_t to) {
  struct rha_extent *last = batch->extent_count ? &batch->extents[batch->extent_count - 1] : NULL;
  uint8_t kind = piece->data ? RHA_EXTENT_DATA : RHA_EXTENT_ZEROS;

  if (last && last->disk == piece->disk && last->kind == kind && last->offset + last->length == from)
    last->length += to - from;
  else
    batch->extents[batch->extent_count++] = (struct rha_extent){
        .offset = from, .length = to - from, .data = batch->data_length, .disk = (uint16_t)piece->disk, .kind = kind};
  if (!piece->data) return;
  memcpy(batch->data + batch->data_length, piece->data + (from - piece->offset), to - from);
  batch->data_length += to - from;
}

/* One pass over the sorted pieces: at every position the newest piece that covers it is written out. Each step ends at
 * a piece's begin or end, so there are at most two steps per piece. */
static void sweep(struct rha_batch *batch) {
  const struct piece *next = batch->pieces, *stop = next + batch->piece_count;
  uint64_t position = 0;
  uint32_t disk = 0;

  while (next < stop || batch->heap_count) {
    if (!batch->heap_count) {
      disk = next->disk;
      position = next->offset;
    }
    while (next < stop && next->disk == disk && next->offset <= position) heap_push(batch, next++);
    const struct piece *top = batch->heap[0];
    if (top->end <= position) {
      heap_pop(batch);
      continue;
    }
    uint64_t end = next < stop && next->disk == disk && next->offset < top->end ? next->offset : top->end;
    emit(batch, top, position, end);
    position = end;
  }
}

int rha_batch_reduce(struct rha_batch *batch) {
  size_t count = batch->piece_count;

  batch->extent_count = batch->data_length = batch->heap_count = 0;
  if (reserve((void **)&batch->heap, &batch->heap_room, count, sizeof(*batch->heap)) ||
      reserve((void **)&batch->extents, &batch->extent_room, 2 * count, sizeof(*batch->extents)) ||
      reserve((void **)&batch->data, &batch->data_room, batch->data_bytes, 1))
    return RHA_BATCH_NO_MEMORY;
  if (!count) return RHA_BATCH_OK; /* there may be no array to sweep over */
  qsort(batch->pieces, count, sizeof(*batch->pieces), by_place);
  sweep(batch);
  return RHA_BATCH_OK;
}

const struct rha_extent *rha_batch_extents(const struct rha_batch *batch, size_t *count) {
  *count = batch->extent_count;
  return batch->extents;
}

const void *rha_batch_data(const struct rha_batch *batch, size_t *length) {
  *length = batch->data_length;
  return batch->data;
}
