/* Copies every write of the watched disks, payload included, into one ring, in submission order.
 *
 * Loaded by rha/capture/probe.py, which supplies, from the running kernel's BTF, OFF_struct_field and SZ_struct,
 * REQ_* values, and RING_PAGES, NCPUS, BITMAP_WORDS. No kernel header is needed and none is trusted.
 *
 * Never waits, never fails the write: what does not fit into the ring marks its range in `dirty`, and the disk leaves
 * write order. Runs on raw tracepoints only: a classic tracepoint or kprobe is skipped while another BPF program runs on that CPU.
 */
#include "state.h"
#include "kernel.h"

struct dynptr { u64 opaque[2]; } __attribute__((aligned(8)));

/* Position in the bio while it is copied. It lives in a map, not in registers: the verifier then sees the same
 * state in each iteration and does not follow a million combinations. */
struct cursor {
  u64 bvec, src, left_in_vec, skip;
  u64 record_left, out;
  u64 dev, sector, bio_left; /* what is left of the bio, in sectors of the whole disk and bytes */
  u32 disk, flags, op, parts, reason, pad;
};

/* Called by number: bcc knows these helpers, but does not rewrite map arguments for them. */
static long (*reserve_dynptr)(void *ring, u32 size, u64 flags, void *ptr) = (void *)198;
static void (*submit_dynptr)(void *ptr, u64 flags) = (void *)199;
static void (*discard_dynptr)(void *ptr, u64 flags) = (void *)200;
static long (*write_dynptr)(void *dst, u32 offset, void *src, u32 length, u64 flags) = (void *)202;
static void *(*slice_dynptr)(void *ptr, u32 offset, u32 length) = (void *)203;
static u64 (*query_ring)(void *ring, u64 flags) = (void *)134;

#define CHUNK 4096
#define MAX_CHUNKS 640             /* of one record: 1 MiB in whole pages is 256, with every page split in two 512 */
#define RECORD_PAYLOAD (1u << 20)  /* longest payload of one record; a longer bio becomes several */
#define MAX_PARTS 30               /* records of one bio: the kernel allows 33 tail calls, and one of them is kept for a loss */
#define MAX_MARK_WORDS 64          /* bitmap words set at once: 256 MiB */
#define NO_WAKEUP 1                /* the reader polls: waking it costs more than the copy (2 us against 1) */
#define STATUS_NOT_SUPPORTED 1     /* BLK_STS_NOTSUPP */
#define RING_PRODUCER 3            /* BPF_RB_PROD_POS */

BPF_RINGBUF_OUTPUT(ring, RING_PAGES); /* the first table: RING below names it by its number */
BPF_F_TABLE("array", u32, struct rha_state, state, 1, 1 << 10);
BPF_F_TABLE("array", u32, struct rha_counters, counters, NCPUS * RHA_MAX_DISKS, 1 << 10);
BPF_F_TABLE("array", u32, u64, dirty, BITMAP_WORDS, 1 << 10);
BPF_F_TABLE("array", u32, u64, pending, BITMAP_WORDS, 1 << 10); /* the engine's own; kept here to outlive it */
BPF_PERCPU_ARRAY(cursors, struct cursor, 1);
BPF_F_TABLE("percpu_array", u32, struct { u8 bytes[CHUNK]; }, scratch, 1, 0);
BPF_PROG_ARRAY(continuation, 2);
#define MORE 0 /* on_queue_more */
#define MARK 1 /* on_queue_mark */

#define NO_LOSS RHA_LOSSES /* the disk is in bitmap mode already: nothing is lost by marking */
#define RING ((void *)bpf_pseudo_fd(1, -1))

/* The part of a bio that matters, read at once: structures read whole instead of field by field took the
 * probe from 1.36 to 0.91 us per 4 KiB write. */
#define BIO_HEAD (OFF_bio_bi_io_vec + 8)
struct bio_head { u8 bytes[BIO_HEAD]; } __attribute__((aligned(8)));
_Static_assert(OFF_bio_bi_bdev < BIO_HEAD && OFF_bio_bi_opf < BIO_HEAD && OFF_bio_bi_iter + SZ_bvec_iter <= BIO_HEAD, "bio");
#define BIO_U32(head, offset) (*(u32 *)((head).bytes + (offset)))
#define BIO_U64(head, offset) (*(u64 *)((head).bytes + (offset)))

/* The call could not see what it was called for: maybe a write of a watched disk. The engine answers as it answers a call
 * that the kernel skipped. Structures of a bio or request in use can be read, so this means wrong offsets or worse. */
static inline int blind(struct rha_state *s) {
  __sync_fetch_and_add(&s->blind, 1);
  return 0;
}

static inline struct rha_counters *counters_of(u32 disk) {
  u32 key = bpf_get_smp_processor_id() * RHA_MAX_DISKS + (disk & (RHA_MAX_DISKS - 1));
  return counters.lookup(&key);
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
  for (int i = 0; i < MAX_MARK_WORDS; i++) {
    if (word > last_word) break;
    u64 bits = ~0ull;
    if (word == bit >> 6) bits <<= bit & 63;
    if (word == last_word) bits &= ~0ull >> (63 - (last & 63));
    u32 key = d->bitmap_word + word;
    u64 *value = dirty.lookup(&key);
    if (value) __sync_fetch_and_or(value, bits);
    word++;
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

/* Puts the cursor on the next piece of the bio. 0 when it could be read. */
static inline int next_vec(struct rha_state *s, struct cursor *c) {
  struct { u8 bytes[SZ_bio_vec]; } __attribute__((aligned(8))) vec;
  if (bpf_probe_read_kernel(&vec, sizeof(vec), (void *)c->bvec)) return -1;
  u64 page = *(u64 *)(vec.bytes + OFF_bio_vec_bv_page);
  u32 offset = *(u32 *)(vec.bytes + OFF_bio_vec_bv_offset), length = *(u32 *)(vec.bytes + OFF_bio_vec_bv_len);
  c->src = s->direct_map + ((page - s->vmemmap) / SZ_page << 12) + offset + c->skip;
  c->left_in_vec = length - c->skip;
  c->skip = 0;
  c->bvec += SZ_bio_vec;
  return 0;
}

/* Copies c->record_left bytes of the bio behind the record's header. 0 when all of it arrived. */
static inline int copy_payload(struct dynptr *p, struct cursor *c, struct rha_state *s) {
  for (int i = 0; i < MAX_CHUNKS; i++) {
    if (c->record_left == 0) return 0;
    if (c->left_in_vec == 0 && next_vec(s, c)) return -1;
    u64 n = c->left_in_vec;
    if (n > c->record_left) n = c->record_left;
    if (n >= CHUNK) {
      n = CHUNK;
      void *to = slice_dynptr(p, c->out, CHUNK);
      if (!to || bpf_probe_read_kernel(to, CHUNK, (void *)c->src)) return -1;
    } else { /* a slice has a constant length: odd pieces take the way through a buffer */
      u32 zero = 0;
      struct { u8 bytes[CHUNK]; } *spare = (void *)scratch.lookup(&zero);
      if (!spare) return -1;
      asm volatile("" : "+r"(n)); /* keep the bound in the register that the verifier looks at */
      if (n > CHUNK - 1) return -1;
      if (bpf_probe_read_kernel(spare, n, (void *)c->src)) return -1;
      if (write_dynptr(p, c->out, spare, n, 0)) return -1;
    }
    c->src += n;
    c->left_in_vec -= n;
    c->out += n;
    c->record_left -= n;
  }
  return c->record_left == 0 ? 0 : -1;
}

/* A record of any length. 0 when it is in the ring; else c->reason says why not. */
static inline int put(struct rha_state *s, struct cursor *c, struct rha_record *r, u64 payload) {
  struct dynptr p = {};
  if (reserve_dynptr(RING, sizeof(*r) + payload, 0, &p)) {
    discard_dynptr(&p, NO_WAKEUP);
    c->reason = RHA_LOSS_RING_FULL;
    return -1;
  }
  write_dynptr(&p, 0, r, sizeof(*r), 0);
  c->record_left = payload;
  c->out = sizeof(*r);
  if (payload && copy_payload(&p, c, s)) {
    discard_dynptr(&p, NO_WAKEUP);
    c->reason = RHA_LOSS_READ_FAILED;
    return -1;
  }
  submit_dynptr(&p, NO_WAKEUP);
  return 0;
}

/* The same for the commonest record, one chunk in one piece: a length known beforehand saves a tenth of the time. */
static inline int put_chunk(struct cursor *c, struct rha_record *r) {
  struct { struct rha_record head; u8 bytes[CHUNK]; } *place = (void *)ring.ringbuf_reserve(sizeof(*place));
  if (!place) {
    c->reason = RHA_LOSS_RING_FULL;
    return -1;
  }
  place->head = *r;
  if (bpf_probe_read_kernel(place->bytes, CHUNK, (void *)c->src)) {
    ring.ringbuf_discard(place, NO_WAKEUP);
    c->reason = RHA_LOSS_READ_FAILED;
    return -1;
  }
  ring.ringbuf_submit(place, NO_WAKEUP);
  c->src += CHUNK;
  c->left_in_vec -= CHUNK;
  return 0;
}

/* Writes the next record of the bio under the cursor. 0 when it is in the ring; else c->reason says why not. */
static inline int capture_record(struct rha_state *s, struct cursor *c) {
  u64 payload = c->op == RHA_WRITE ? c->bio_left : 0;
  u32 flags = c->flags;
  if (payload > RECORD_PAYLOAD) {
    payload = RECORD_PAYLOAD;
    flags |= RHA_FLAG_PARTIAL;
  }
  struct rha_disk *d = &s->disk[c->disk & (RHA_MAX_DISKS - 1)];
  struct rha_record r = {
    .sector = c->bio_left ? c->sector - d->start : 0, .bytes = payload ? payload : c->bio_left,
    .disk = c->disk, .op = c->op, .flags = flags, .time_ns = bpf_ktime_get_ns(),
  };
  if (payload && c->left_in_vec == 0 && next_vec(s, c)) {
    c->reason = RHA_LOSS_READ_FAILED;
    return -1;
  }
  if (payload == CHUNK && c->left_in_vec >= CHUNK) {
    if (put_chunk(c, &r)) return -1;
  } else if (put(s, c, &r, payload)) {
    return -1;
  }
  struct rha_counters *n = counters_of(c->disk);
  if (n) {
    n->records++;
    n->payload_bytes += payload;
  }
  c->sector += payload >> RHA_SECTOR_SHIFT;
  c->bio_left = payload ? c->bio_left - payload : 0;
  return 0;
}

/* Copies the next record; goes on with the next program where that is not the end. */
static inline int capture(struct bpf_raw_tracepoint_args *ctx, struct rha_state *s, struct cursor *c) {
  if (capture_record(s, c)) {
    continuation.call(ctx, MARK);
  } else if (c->bio_left && ++c->parts < MAX_PARTS) {
    continuation.call(ctx, MORE);
  } else if (c->bio_left) {
    c->reason = RHA_LOSS_TOO_LARGE;
    continuation.call(ctx, MARK);
  }
  return 0;
}

/* The operation of a record, or 0 for what changes nothing on the disk. */
static inline u32 operation(u32 opf, u32 bytes) {
  u32 op = opf & 0xff;
  if (op == REQ_OP_WRITE) return bytes ? RHA_WRITE : opf & (1u << REQ_PREFLUSH) ? RHA_FLUSH : 0;
  if (op == REQ_OP_DISCARD) return RHA_DISCARD;
  if (op == REQ_OP_WRITE_ZEROES) return RHA_WRITE_ZEROES;
  if (op == REQ_OP_SECURE_ERASE) return RHA_SECURE_ERASE;
  return 0;
}

static inline struct rha_state *shared_state(void) {
  u32 zero = 0;
  return state.lookup(&zero);
}

static inline struct cursor *shared_cursor(void) {
  u32 zero = 0;
  return cursors.lookup(&zero);
}

/* Index of the first watched disk that a bio on device `dev` touches; RHA_MAX_DISKS when none. An empty flush concerns the
 * whole device, so any watched part of it will do. */
static inline u32 watched(struct rha_state *s, u64 dev, u64 sector, u64 end) {
  for (u32 i = 0; i < RHA_MAX_DISKS; i++) {
    struct rha_disk *d = &s->disk[i];
    if (d->dev != dev || d->mode == RHA_MODE_OFF) continue;
    if (sector == end || (sector < d->start + d->sectors && end > d->start)) return i;
  }
  return RHA_MAX_DISKS;
}

/* raw tracepoint block_bio_queue(struct bio *) */
int on_queue(struct bpf_raw_tracepoint_args *ctx) {
  struct rha_state *s = shared_state();
  if (!s) return 0; /* cannot be, and nowhere to count it: an array always has its element 0 */
  struct bio_head bio = {};
  if (READ(&bio, sizeof(bio), ctx->args[0])) return blind(s);
  u32 opf = BIO_U32(bio, OFF_bio_bi_opf);
  if (!(opf & 1)) return 0; /* every operation that changes a disk has an odd number: op_is_write() */
  struct cursor *c = shared_cursor();
  if (!c) return blind(s);
  u32 bytes = BIO_U32(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_size);
  c->dev = disk_number(rd64(BIO_U64(bio, OFF_bio_bi_bdev) + OFF_block_device_bd_disk));
  if (!c->dev) return blind(s);
  c->sector = BIO_U64(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_sector);
  c->bio_left = bytes;
  u64 end = c->sector + (bytes >> RHA_SECTOR_SHIFT);
  c->disk = watched(s, c->dev, c->sector, end);
  if (c->disk >= RHA_MAX_DISKS) return 0;

  struct rha_disk *d = &s->disk[c->disk & (RHA_MAX_DISKS - 1)];
  c->op = operation(opf, bytes);
  c->reason = NO_LOSS;
  if ((opf & 0xff) == REQ_OP_ZONE_APPEND) {
    c->reason = RHA_LOSS_ZONE_APPEND;
  } else if (!c->op) {
    return 0;
  } else if (bytes && (c->sector < d->start || end > d->start + d->sectors)) {
    /* Partition tools write across an edge, data writers do not: not worth copying parts of a bio. */
    c->reason = RHA_LOSS_STRADDLES;
  }
  if (c->reason != NO_LOSS || d->mode == RHA_MODE_BITMAP) {
    if (bytes) continuation.call(ctx, MARK);
    return 0;
  }
  c->bvec = BIO_U64(bio, OFF_bio_bi_io_vec) + (u64)BIO_U32(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_idx) * SZ_bio_vec;
  c->skip = BIO_U32(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_bvec_done);
  c->left_in_vec = 0;
  c->parts = 0;
  c->flags = (opf & (1u << REQ_FUA) ? RHA_FLAG_FUA : 0) | (opf & (1u << REQ_PREFLUSH) ? RHA_FLAG_PREFLUSH : 0);
  return capture(ctx, s, c);
}

/* The rest of a bio longer than one record, one record a call. */
int on_queue_more(struct bpf_raw_tracepoint_args *ctx) {
  struct rha_state *s = shared_state();
  struct cursor *c = shared_cursor();
  return s && c ? capture(ctx, s, c) : 0;
}

/* Marks sectors [sector, end) of device `dev` in every watched disk that they touch. */
static inline void mark_watched(struct rha_state *s, u64 dev, u64 sector, u64 end, u32 reason, u32 only_tracked) {
  for (u32 i = 0; i < RHA_MAX_DISKS; i++) {
    struct rha_disk *d = &s->disk[i];
    if (d->dev != dev || d->mode == RHA_MODE_OFF || end <= d->start) continue;
    if (only_tracked && !d->tracking) continue;
    u64 first = sector > d->start ? sector - d->start : 0;
    if (first >= d->sectors) continue;
    mark(d, first, end - d->start);
    if (!only_tracked) lose(d, i, reason);
  }
}

/* What is left of the bio under the cursor did not go into the ring. */
int on_queue_mark(struct bpf_raw_tracepoint_args *ctx) {
  struct rha_state *s = shared_state();
  struct cursor *c = shared_cursor();
  if (!s || !c) return 0;
  u64 end = c->sector + (c->bio_left >> RHA_SECTOR_SHIFT);
  mark_watched(s, c->dev, c->sector, end, c->reason, 0);
  return 0;
}

struct completion { u64 dev, sector, end; };

/* 1 when the request ends a write, 0 when it ends none, -1 when it cannot be read. */
static inline int read_completion(struct bpf_raw_tracepoint_args *ctx, struct completion *done) {
  u64 rq = ctx->args[0], bytes = (u32)ctx->args[2], queue = 0, disk = 0;
  u32 flags = 0;
  long bad = READ(&flags, 4, rq + OFF_request_cmd_flags);
  if (!bad && (!(flags & 1) || !bytes)) return 0;
  bad |= READ(&queue, 8, rq + OFF_request_q);
  bad |= READ(&disk, 8, queue + OFF_request_queue_disk);
  bad |= READ(&done->sector, 8, rq + OFF_request___sector);
  if (bad) return -1;
  if (!disk) return 0; /* a command to a controller */
  done->dev = disk_number(disk);
  done->end = done->sector + (bytes >> RHA_SECTOR_SHIFT);
  return done->dev ? 1 : -1;
}

/* raw tracepoint block_rq_complete(struct request *, blk_status_t, unsigned int bytes); attached while a disk is tracked */
int on_complete(struct bpf_raw_tracepoint_args *ctx) {
  struct completion done = {};
  struct rha_state *s = shared_state();
  if (!s) return 0;
  int kind = read_completion(ctx, &done);
  if (kind < 0) return blind(s);
  if (kind) mark_watched(s, done.dev, done.sector, done.end, NO_LOSS, 1);
  return 0;
}

/* raw tracepoint block_rq_error(struct request *, blk_status_t, unsigned int bytes) */
int on_error(struct bpf_raw_tracepoint_args *ctx) {
  struct completion done = {};
  struct rha_state *s = shared_state();
  if (!s) return 0;
  int kind = read_completion(ctx, &done);
  if (kind <= 0) return kind ? blind(s) : 0;
  /* A device that cannot write zeroes says so once, and the kernel writes them itself: nothing differs. */
  u32 op = rd32(ctx->args[0] + OFF_request_cmd_flags) & 0xff;
  if (op == REQ_OP_WRITE_ZEROES && (ctx->args[1] & 0xff) == STATUS_NOT_SUPPORTED) return 0;
  mark_watched(s, done.dev, done.sector, done.end, RHA_LOSS_WRITE_ERROR, 0);
  return 0;
}
