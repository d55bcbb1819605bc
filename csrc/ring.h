/* Reads a BPF ring buffer with a cursor of its own: what was read stays in the ring until it is released, so the ring is
 * the journal of the master. Layout (kernel/bpf/ringbuf.c): one page consumer position, one page producer position,
 * then the data, mapped twice so that every record is contiguous. */
#ifndef RHA_RING_H
#define RHA_RING_H
#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
typedef struct rha_ring rha_ring;

typedef struct {
  uint64_t begin, end;     /* ring positions of the region; empty when equal */
  const char *data;        /* its bytes, contiguous */
  uint64_t records;        /* not counting discarded reservations */
  uint64_t payload_bytes;
  uint64_t last_time;      /* submission time of the last record, CLOCK_MONOTONIC ns; 0: no record */
} rha_region;

/* Maps the ring of `map_fd`, `bytes` of data. NULL and errno on failure. The cursor starts at the consumer position. */
rha_ring *rha_ring_open(int map_fd, uint64_t bytes);
void rha_ring_close(rha_ring *ring);

/* The committed records from the cursor on, at most `max_bytes` of them (at least one record) and none that begins at or after
 * `limit`; moves the cursor behind them. Records still being written end the region. -1 when the ring makes no sense. */
int rha_ring_next(rha_ring *ring, uint64_t max_bytes, uint64_t limit, rha_region *region);
/* The same for a run of committed records that was copied elsewhere: positions [begin, end) stand at `run`. */
int rha_run_next(const char *run, uint64_t begin, uint64_t end, uint64_t at, uint64_t max_bytes, uint64_t limit,
                 rha_region *region);
/* Gives everything before `position` back to the kernel. */
void rha_ring_release(rha_ring *ring, uint64_t position);
/* Sets the cursor back (or forth), to ship again what was not acknowledged. */
void rha_ring_seek(rha_ring *ring, uint64_t position);
/* Waits until something is behind the cursor, at most `timeout_us`; polls, since waking a reader costs the writer more
 * than the copy. 1: there is. */
int rha_ring_wait(rha_ring *ring, uint64_t timeout_us, uint64_t poll_us);
/* Submission time (CLOCK_MONOTONIC, ns) of the oldest record in the ring; 0 when it is empty or still being written. */
uint64_t rha_ring_oldest_time(const rha_ring *ring);
uint64_t rha_ring_cursor(const rha_ring *ring);
uint64_t rha_ring_consumer(const rha_ring *ring);
uint64_t rha_ring_producer(const rha_ring *ring);
/* cffi:end */

#endif
