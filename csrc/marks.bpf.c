/* The probe's maps, and what happens to a write that does not go into the ring.
 *
 * First part of the probe; flights.bpf.c and probe.bpf.c follow in the same compilation. They cannot be included: bcc
 * rewrites accesses to maps in the main file only, so rha/capture/probe.py puts the parts one behind the other.
 */
#include "state.h"
#include "kernel.h"

#define MAX_MARK_WORDS 64 /* bitmap words set at once: 256 MiB */
#define RING_PRODUCER 3   /* BPF_RB_PROD_POS */

BPF_RINGBUF_OUTPUT(ring, RING_PAGES); /* the first table: RING below names it by its number */
BPF_F_TABLE("array", u32, struct rha_state, state, 1, 1 << 10);
BPF_F_TABLE("array", u32, struct rha_counters, counters, NCPUS * RHA_MAX_DISKS, 1 << 10);
BPF_F_TABLE("array", u32, u64, dirty, BITMAP_WORDS, 1 << 10);
BPF_F_TABLE("array", u32, u64, pending, BITMAP_WORDS, 1 << 10); /* the engine's own; kept here to outlive it */

#define NO_LOSS RHA_LOSSES /* the disk is in bitmap mode already: nothing is lost by marking */
#define RING ((void *)bpf_pseudo_fd(1, -1))

/* Called by number: bcc knows this helper, but does not rewrite map arguments for it. */
static u64 (*query_ring)(void *ring, u64 flags) = (void *)134;

static inline struct rha_state *shared_state(void) {
  u32 zero = 0;
  return state.lookup(&zero);
}

static inline struct rha_counters *counters_of(u32 disk) {
  u32 key = bpf_get_smp_processor_id() * RHA_MAX_DISKS + (disk & (RHA_MAX_DISKS - 1));
  return counters.lookup(&key);
}

/* The call could not see what it was called for: maybe a write of a watched disk. The engine answers as it answers a call
 * that the kernel skipped. Structures of a bio or request in use can be read, so this means wrong offsets or worse. */
static inline int blind(struct rha_state *s) {
  __sync_fetch_and_add(&s->blind, 1);
  return 0;
}

/* Sets the bits of sectors [first, end) of a watched disk, counted from its start. */
static inline void mark(struct rha_disk *d, u64 first, u64 end) {
  if (end > d->sectors) end = d->sectors;
  if (first >= end) return;
  u64 bit = first >> (RHA_BLOCK_SHIFT - RHA_SECTOR_SHIFT);
  u64 last = (end - 1) >> (RHA_BLOCK_SHIFT - RHA_SECTOR_SHIFT);
  u64 word = bit >> 6, last_word = last >> 6;
  if (last_word - word >= MAX_MARK_WORDS) {
    d->all_dirty = 1;
    return;
  }
  u64 bits = ~0ull << (bit & 63);
  u32 key = d->bitmap_word + word, last_key = d->bitmap_word + last_word;
  for (int i = 0; i < MAX_MARK_WORDS; i++) {
    u64 *value = dirty.lookup(&key);
    if (!value) return; /* cannot be: the disk's bits are in the plane */
    if (key == last_key) bits &= ~0ull >> (63 - (last & 63));
    __sync_fetch_and_or(value, bits);
    if (key == last_key) return;
    bits = ~0ull;
    key++;
  }
}

/* A write is not in the ring, or is there and not on the disk; its bits are set. The order matters: bits first, then the gap
 * position, then the mode, so that whoever sees the mode sees the rest. */
static inline void lose(struct rha_disk *d, u32 disk, u32 reason) {
  struct rha_counters *c = counters_of(disk);
  if (!c) return;
  if (reason == NO_LOSS) {
    __sync_fetch_and_add(&c->marked, 1);
    return;
  }
  __sync_fetch_and_add(&c->lost[reason & (RHA_LOSSES - 1)], 1);
  if (d->mode != RHA_MODE_DATA) return;
  if (c->gap == 0) c->gap = query_ring(RING, RING_PRODUCER) | 1;
  d->mode = RHA_MODE_BITMAP;
}

/* Sectors [sector, end) of device `dev`, and why they are to be marked. `only_tracked`: in disks that are tracked, and then
 * it is no loss. */
struct range { u64 dev, sector, end; u32 reason, only_tracked; };

static inline u32 is_hit(struct rha_disk *d, struct range *r) {
  if (d->dev != r->dev || d->mode == RHA_MODE_OFF || (r->only_tracked && !d->tracking)) return 0;
  return r->end > d->start && r->sector < d->start + d->sectors;
}

static inline void mark_disk(struct rha_state *s, u32 disk, struct range *r) {
  struct rha_disk *d = &s->disk[disk & (RHA_MAX_DISKS - 1)];
  mark(d, r->sector > d->start ? r->sector - d->start : 0, r->end - d->start);
  if (!r->only_tracked) lose(d, disk, r->reason);
}

/* Marks a range in every watched disk that it touches. One of more than two disks is an operation on a whole device with
 * its partitions: from the third on they are marked as a whole. (A loop of bits inside the loop of disks would have the
 * verifier follow 1024 rounds for each way here, more than half a million steps in all.)
 *
 * The loops are kept small: where registers have to be spilled in one, clang enters it by a jump and lets its end fall
 * through to its head, and Linux 6.1 takes only jumps that go back ("back-edge from insn 118 to 119");
 * tests/capture/test_program.py looks for that. */
static inline void mark_watched(struct rha_state *s, struct range *r) {
  struct { u32 count, first, second, others; } hits = {};
  for (u32 i = 0; i < RHA_MAX_DISKS; i++) {
    if (!is_hit(&s->disk[i], r)) continue;
    if (hits.count == 0) {
      hits.first = i;
    } else if (hits.count == 1) {
      hits.second = i;
    } else {
      hits.others |= 1u << i;
    }
    hits.count++;
  }
  if (hits.count == 0) return;
  READ(&hits, sizeof(hits), &hits); /* the same numbers, which the verifier now takes for unknown: one way from here */
  mark_disk(s, hits.first, r);
  if (hits.count > 1) mark_disk(s, hits.second, r);
  if (hits.count < 3) return;
  for (u32 i = 0; i < RHA_MAX_DISKS; i++) {
    if (!(hits.others >> i & 1)) continue;
    s->disk[i].all_dirty = 1;
    if (!r->only_tracked) lose(&s->disk[i], i, r->reason);
  }
}
