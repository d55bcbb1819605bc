/* A batch of writes reduced to what an image needs: for each disk non-overlapping extents, the last writer of every byte
 * wins, sorted, neighbours merged, data gathered in one buffer so that merged neighbours are one large write.
 *
 * The input is hostile until checked: it came over a network. Every length, disk and sector is checked before
 * anything is taken into the batch; a refused run leaves the batch as it was. */
#ifndef RHA_EXTENTS_H
#define RHA_EXTENTS_H
#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
enum rha_batch_error {
  RHA_BATCH_OK = 0,
  RHA_BATCH_NO_MEMORY = -1,
  RHA_BATCH_CUT = -2,       /* a record reaches beyond the end of the run */
  RHA_BATCH_BUSY = -3,      /* a record that the probe had not finished */
  RHA_BATCH_LENGTH = -4,    /* the ring header's length does not fit the record */
  RHA_BATCH_OP = -5,        /* an operation that does not exist */
  RHA_BATCH_DISK = -6,      /* a disk that the scenario does not have */
  RHA_BATCH_RANGE = -7,     /* beyond the end of the disk */
  RHA_BATCH_ALIGNMENT = -8, /* not a multiple of 512 bytes */
};

enum rha_extent_kind { RHA_EXTENT_DATA = 1, RHA_EXTENT_ZEROS = 2 };

/* Bytes, all of it. `data` is a position in the gathered buffer, valid iff `kind` is RHA_EXTENT_DATA. */
struct rha_extent {
  uint64_t offset;
  uint64_t length;
  uint64_t data;
  uint16_t disk;
  uint8_t kind;
  uint8_t unused[5];
};

/* What a run of ring records holds. `offset`: where in the run the check ended; after an error, the bad record. */
struct rha_run {
  uint64_t records;       /* without the discarded ones */
  uint64_t discarded;     /* ring reservations that the probe gave up */
  uint64_t payload_bytes; /* of writes */
  uint64_t pieces;        /* records that change the disk */
  uint64_t time_ns;       /* of the last record, the sender's CLOCK_MONOTONIC; 0 when there is none */
  uint64_t offset;
};

struct rha_batch;

/* Checks a run of ring records (csrc/record.h) without keeping it. Returns enum rha_batch_error; fills `found`. */
int rha_run_check(const void *run, size_t length, uint32_t disks, const uint64_t *disk_bytes, struct rha_run *found);

/* An empty batch for disks of these sizes (bytes), or NULL without memory. */
struct rha_batch *rha_batch_new(uint32_t disks, const uint64_t *disk_bytes);
void rha_batch_free(struct rha_batch *batch);
/* Empties the batch; its memory stays for the next one. */
void rha_batch_clear(struct rha_batch *batch);

/* The add functions keep pointers into the caller's buffers until rha_batch_reduce has returned. Each returns
 * enum rha_batch_error, and takes all or nothing. */
int rha_batch_add_records(struct rha_batch *batch, const void *run, size_t length, struct rha_run *found);
int rha_batch_add_range(struct rha_batch *batch, uint32_t disk, uint64_t offset, const void *data, uint64_t length);
int rha_batch_add_zeros(struct rha_batch *batch, uint32_t disk, uint64_t offset, uint64_t length);

/* Reduces what was added, in the order in which it was added. O(n log n). Returns enum rha_batch_error. */
int rha_batch_reduce(struct rha_batch *batch);
/* Result of the last reduce, valid until the next clear, reduce or free. */
const struct rha_extent *rha_batch_extents(const struct rha_batch *batch, size_t *count);
const void *rha_batch_data(const struct rha_batch *batch, size_t *length);
/* cffi:end */

#endif
