#include "ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "record.h"

struct rha_ring {
  uint64_t *consumer;       /* ours to write: everything before it is free again */
  const uint64_t *producer; /* the kernel's */
  const char *data;
  uint64_t bytes, cursor;
  size_t page;
};

rha_ring *rha_ring_open(int map_fd, uint64_t bytes) {
  size_t page = sysconf(_SC_PAGESIZE);
  if (bytes < page || bytes & (bytes - 1)) {
    errno = EINVAL;
    return NULL;
  }
  rha_ring *ring = calloc(1, sizeof(*ring));
  if (!ring) return NULL;
  ring->consumer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
  if (ring->consumer == MAP_FAILED) {
    free(ring);
    return NULL;
  }
  const char *shared = mmap(NULL, page + 2 * bytes, PROT_READ, MAP_SHARED, map_fd, page);
  if (shared == MAP_FAILED) {
    munmap(ring->consumer, page);
    free(ring);
    return NULL;
  }
  ring->producer = (const uint64_t *)shared;
  ring->data = shared + page;
  ring->bytes = bytes;
  ring->page = page;
  ring->cursor = rha_ring_consumer(ring);
  return ring;
}

void rha_ring_close(rha_ring *ring) {
  if (!ring) return;
  munmap(ring->consumer, ring->page);
  munmap((void *)ring->producer, ring->page + 2 * ring->bytes);
  free(ring);
}

uint64_t rha_ring_cursor(const rha_ring *ring) { return ring->cursor; }
uint64_t rha_ring_consumer(const rha_ring *ring) { return __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE); }
uint64_t rha_ring_producer(const rha_ring *ring) { return __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE); }
void rha_ring_seek(rha_ring *ring, uint64_t position) { ring->cursor = position; }

void rha_ring_release(rha_ring *ring, uint64_t position) {
  if (position > rha_ring_consumer(ring)) __atomic_store_n(ring->consumer, position, __ATOMIC_RELEASE);
}

/* Records from position `at` to `end`; the one at position p stands at data[(p - origin) & mask]. */
static int walk(const char *data, uint64_t origin, uint64_t mask, uint64_t at, uint64_t end, uint64_t max_bytes,
                uint64_t limit, rha_region *region) {
  *region = (rha_region){.begin = at, .end = at, .data = data + ((at - origin) & mask)};
  while (at < end && at < limit) {
    const char *place = data + ((at - origin) & mask);
    if (end - at < RHA_RING_HEADER) return -1;
    uint32_t header = __atomic_load_n((const uint32_t *)place, __ATOMIC_ACQUIRE);
    if (header & RHA_RING_BUSY) break;
    uint64_t length = header & ~(RHA_RING_BUSY | RHA_RING_DISCARD);
    uint64_t next = at + ((length + RHA_RING_HEADER + 7) & ~7ull);
    if (next > end) return -1;
    if (next - region->begin > max_bytes && at != region->begin) break;
    if (!(header & RHA_RING_DISCARD)) {
      struct rha_record record;
      if (length < sizeof(record)) return -1;
      memcpy(&record, place + RHA_RING_HEADER, sizeof(record));
      region->records++;
      region->last_time = record.time_ns;
      if (record.op == RHA_WRITE) region->payload_bytes += record.bytes;
    }
    at = next;
  }
  region->end = at;
  return 0;
}

int rha_ring_next(rha_ring *ring, uint64_t max_bytes, uint64_t limit, rha_region *region) {
  uint64_t at = ring->cursor, producer = rha_ring_producer(ring);
  if (producer - at > ring->bytes) return -1;
  if (walk(ring->data, 0, ring->bytes - 1, at, producer, max_bytes, limit, region)) return -1;
  ring->cursor = region->end;
  return 0;
}

int rha_run_next(const char *run, uint64_t begin, uint64_t end, uint64_t at, uint64_t max_bytes, uint64_t limit,
                 rha_region *region) {
  return at < begin || at > end ? -1 : walk(run, begin, ~0ull, at, end, max_bytes, limit, region);
}

int rha_ring_wait(rha_ring *ring, uint64_t timeout_us, uint64_t poll_us) {
  for (uint64_t waited = 0;; waited += poll_us) {
    if (rha_ring_producer(ring) != ring->cursor) return 1;
    if (waited >= timeout_us) return 0;
    nanosleep(&(struct timespec){.tv_sec = poll_us / 1000000, .tv_nsec = poll_us % 1000000 * 1000}, NULL);
  }
}

uint64_t rha_ring_oldest_time(const rha_ring *ring) {
  uint64_t at = rha_ring_consumer(ring);
  struct rha_record record;
  if (at >= rha_ring_producer(ring)) return 0;
  const char *place = ring->data + (at & (ring->bytes - 1));
  if (__atomic_load_n((const uint32_t *)place, __ATOMIC_ACQUIRE) & (RHA_RING_BUSY | RHA_RING_DISCARD)) return 0;
  memcpy(&record, place + RHA_RING_HEADER, sizeof(record));
  return record.time_ns;
}
