/* Copies every write of the watched disks, payload included, into one ring, in submission order. Last part of the probe,
 * behind marks.bpf.c and flights.bpf.c.
 *
 * Compiled by rha/capture/probe.py, which supplies, from the running kernel's BTF, OFF_struct_field and SZ_struct,
 * REQ_* and BIO_* values, and RING_PAGES, NCPUS, BITMAP_WORDS, FLIGHTS. No kernel header is needed and none is trusted.
 *
 * Never waits, never fails the write: what does not fit into the ring marks its range in `dirty`, and the disk leaves
 * write order. Runs on raw tracepoints only: a classic tracepoint or kprobe is skipped while another BPF program runs on that CPU.
 */

struct dynptr { u64 opaque[2]; } __attribute__((aligned(8)));

#define CHUNK 4096
#define VECS_AHEAD 16 /* a power of two */

/* Position in the bio while it is copied. It lives in a map, not in registers: the verifier then sees the same
 * state in each iteration and does not follow a million combinations. */
struct cursor {
  u64 bvec, src, left_in_vec, skip;
  u64 record_left, out;
  u64 dev, sector, bio_left; /* what is left of the bio, in sectors of the whole disk and bytes */
  u32 disk, flags, op, parts, reason;
  u32 busy; /* a bio is under the cursor */
  u32 vec, vecs; /* of those read ahead: the next one, and how many there are */
  struct { u8 bytes[SZ_bio_vec]; } ahead[VECS_AHEAD];
};

/* Called by number: bcc knows these helpers, but does not rewrite map arguments for them. */
static long (*reserve_dynptr)(void *ring, u32 size, u64 flags, void *ptr) = (void *)198;
static void (*submit_dynptr)(void *ptr, u64 flags) = (void *)199;
static void (*discard_dynptr)(void *ptr, u64 flags) = (void *)200;
static long (*write_dynptr)(void *dst, u32 offset, void *src, u32 length, u64 flags) = (void *)202;
static void *(*slice_dynptr)(void *ptr, u32 offset, u32 length) = (void *)203;

#define MAX_CHUNKS 640             /* of one record: 1 MiB in whole pages is 256, with every page split in two 512 */
#define RECORD_PAYLOAD (1u << 20)  /* longest payload of one record; a longer bio becomes several */
#define MAX_PARTS 32               /* records of one bio. 33 tail calls are allowed: these and on_queue_mark. After on_remap, which
                                    * takes one, a loss in the last record cannot be marked; it is counted as blind. */
#define NO_WAKEUP 1 /* the reader polls: waking it costs more than the copy (2 us against 1) */

BPF_PERCPU_ARRAY(cursors, struct cursor, 1);
BPF_F_TABLE("percpu_array", u32, struct { u8 bytes[CHUNK]; }, scratch, 1, 0);
BPF_PROG_ARRAY(continuation, 3);
#define MORE 0  /* on_queue_more */
#define MARK 1  /* on_queue_mark */
#define QUEUE 2 /* on_queue */

/* Reads the next pieces of the bio. Some of what lies behind the last one may be read with it; should that not be there, one
 * by one. 0 when there is one. */
static inline int read_vecs(struct cursor *c) {
  c->vec = 0;
  c->vecs = VECS_AHEAD;
  if (c->bio_left <= CHUNK || READ(c->ahead, sizeof(c->ahead), c->bvec)) {
    c->vecs = 1;
    if (READ(c->ahead, SZ_bio_vec, c->bvec)) return -1;
  }
  c->bvec += c->vecs * SZ_bio_vec;
  return 0;
}

/* Puts the cursor on the next piece of the bio. 0 when it could be read. */
static inline int next_vec(struct rha_state *s, struct cursor *c) {
  if (c->vec >= c->vecs && read_vecs(c)) return -1;
  u8 *vec = c->ahead[c->vec++ & (VECS_AHEAD - 1)].bytes;
  u64 page = *(u64 *)(vec + OFF_bio_vec_bv_page);
  u32 offset = *(u32 *)(vec + OFF_bio_vec_bv_offset), length = *(u32 *)(vec + OFF_bio_vec_bv_len);
  c->src = s->direct_map + ((page - s->vmemmap) / SZ_page << 12) + offset + c->skip;
  c->left_in_vec = length - c->skip;
  c->skip = 0;
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
      if (!to || READ(to, CHUNK, c->src)) return -1;
    } else { /* a slice has a constant length: odd pieces take the way through a buffer */
      u32 zero = 0;
      struct { u8 bytes[CHUNK]; } *spare = (void *)scratch.lookup(&zero);
      if (!spare) return -1;
      asm volatile("" : "+r"(n)); /* keep the bound in the register that the verifier looks at */
      if (n > CHUNK - 1) return -1;
      if (READ(spare, n, c->src)) return -1;
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
  if (READ(place->bytes, CHUNK, c->src)) {
    ring.ringbuf_discard(place, NO_WAKEUP);
    c->reason = RHA_LOSS_READ_FAILED;
    return -1;
  }
  ring.ringbuf_submit(place, NO_WAKEUP);
  return 0;
}

/* The head of the next record; `payload`: bytes that follow it. */
static inline struct rha_record next_record(struct rha_state *s, struct cursor *c, u64 payload, u32 flags) {
  struct rha_disk *d = &s->disk[c->disk & (RHA_MAX_DISKS - 1)];
  struct rha_record r = {
    .sector = c->bio_left ? c->sector - d->start : 0, .bytes = payload ? payload : c->bio_left,
    .disk = c->disk, .op = c->op, .flags = flags, .time_ns = bpf_ktime_get_ns(),
  };
  return r;
}

/* A record is in the ring: the cursor goes behind it. */
static inline void advance(struct cursor *c, u64 payload) {
  struct rha_counters *n = counters_of(c->disk);
  if (n) {
    n->records++;
    n->payload_bytes += payload;
  }
  c->sector += payload >> RHA_SECTOR_SHIFT;
  c->bio_left = payload ? c->bio_left - payload : 0;
}

/* Writes the next record of the bio under the cursor. 0 when it is in the ring; else c->reason says why not. */
static inline int capture_record(struct rha_state *s, struct cursor *c) {
  u64 payload = c->op == RHA_WRITE ? c->bio_left : 0;
  u32 flags = c->flags;
  if (payload > RECORD_PAYLOAD) {
    payload = RECORD_PAYLOAD;
    flags |= RHA_FLAG_PARTIAL;
  }
  struct rha_record r = next_record(s, c, payload, flags);
  if (put(s, c, &r, payload)) return -1;
  advance(c, payload);
  return 0;
}

/* The bio is done with, and the next one may come. */
static inline int leave(struct cursor *c) {
  c->busy = 0;
  return 0;
}

/* Marks what is left of the bio. Comes back only when the program cannot be called. */
static inline int give_up(struct bpf_raw_tracepoint_args *ctx, struct rha_state *s, struct cursor *c) {
  continuation.call(ctx, MARK);
  leave(c);
  return blind(s);
}

/* Copies the next record; goes on with the next program where that is not the end. */
static inline int capture(struct bpf_raw_tracepoint_args *ctx, struct rha_state *s, struct cursor *c) {
  if (capture_record(s, c)) return give_up(ctx, s, c);
  if (!c->bio_left) return leave(c);
  if (++c->parts < MAX_PARTS) continuation.call(ctx, MORE);
  c->reason = RHA_LOSS_TOO_LARGE;
  return give_up(ctx, s, c);
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

/* Why this bio is not copied; NO_LOSS when it can be. */
static inline u32 why_not(struct bio_head *bio, struct rha_disk *d, u32 op, u64 sector, u64 end) {
  if (op == REQ_OP_ZONE_APPEND) return RHA_LOSS_ZONE_APPEND;
  /* Partition tools write across an edge, data writers do not: not worth copying parts of a bio. */
  if (sector < end && (sector < d->start || end > d->start + d->sectors)) return RHA_LOSS_STRADDLES;
#ifdef OFF_bio_bi_crypt_context /* absent where the kernel has no inline encryption */
  if (BIO_U64(*bio, OFF_bio_bi_crypt_context)) return RHA_LOSS_ENCRYPTED;
#endif
  return NO_LOSS;
}

/* 1 when the range lies inside the spool of a living engine. */
static inline int is_spared(struct rha_state *s, u64 dev, u64 sector, u64 end) {
  if (s->spared_dev != dev || bpf_ktime_get_ns() > s->spared_until) return 0;
  u32 at = 0; /* the last range that begins at or before the sector */
#pragma unroll
  for (u32 step = RHA_MAX_SPARED / 2; step; step /= 2)
    if (at + step < s->spared_count && s->spared[(at + step) & (RHA_MAX_SPARED - 1)].begin <= sector) at += step;
  struct rha_range *r = &s->spared[at & (RHA_MAX_SPARED - 1)];
  return r->begin <= sector && end <= r->end;
}

/* With REQ_NOWAIT the block layer refuses a bio (BLK_STS_AGAIN) rather than wait for a request or split it, and the writer tries
 * again. io_uring and RWF_NOWAIT do so; above max_sectors_kb each first try is refused. What was refused has never been on
 * the disk and must not be in the stream. So such a write is captured when the block layer accepts it: that is before it can
 * complete, and what is submitted after it has completed still comes behind it. */
static inline u32 may_be_refused(u32 opf) {
  return (opf & 0xff) == REQ_OP_WRITE && opf & (1u << REQ_NOWAIT);
}

/* Captures the bio of the event, which was submitted or (`is_accepted`) accepted. A bio-based disk accepts nothing by an event of
 * its own: there a write is captured at submission in any case, and a refusal counts as an error of the device. */
static inline int take(struct bpf_raw_tracepoint_args *ctx, struct rha_state *s, u32 is_accepted) {
  struct bio_head bio = {};
  if (READ(&bio, sizeof(bio), ctx->args[0])) return blind(s);
  u32 opf = BIO_U32(bio, OFF_bio_bi_opf);
  if (!(opf & 1)) return 0; /* every operation that changes a disk has an odd number: op_is_write() */
  if (!is_accepted && !s->bio_based && may_be_refused(opf)) return 0; /* as below, without reading whose it is */
  u64 dev = disk_number(rd64(BIO_U64(bio, OFF_bio_bi_bdev) + OFF_block_device_bd_disk));
  if (!dev) return blind(s);
  u32 bytes = BIO_U32(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_size);
  u64 sector = BIO_U64(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_sector), end = sector + (bytes >> RHA_SECTOR_SHIFT);
  u32 disk = watched(s, dev, sector, end);
  if (disk >= RHA_MAX_DISKS) return 0;
  if (!is_accepted && may_be_refused(opf) && !s->disk[disk].bio_based) return 0; /* on_accept's */
  struct cursor *c = shared_cursor();
  if (!c || c->busy) return blind(s); /* one program in an interrupt of another */
  c->busy = 1;
  c->dev = dev;
  c->sector = sector;
  c->bio_left = bytes;
  c->disk = disk;
  disk = *(volatile u32 *)&c->disk; /* any index, for the verifier: else it follows each of the 16 to the end */
  struct rha_disk *d = &s->disk[disk & (RHA_MAX_DISKS - 1)];
  u32 op = operation(opf, bytes), reason = why_not(&bio, d, opf & 0xff, sector, end);
  if (!op && reason == NO_LOSS) return leave(c);
  if (s->spared_count && op == RHA_WRITE && is_spared(s, dev, sector, end)) return leave(c);

  c->op = op;
  if (d->bio_based && bytes && depart(d, disk, ctx->args[0], sector, end)) reason = RHA_LOSS_UNTRACKED;
  c->reason = reason;
  if (reason != NO_LOSS || d->mode == RHA_MODE_BITMAP) return bytes ? give_up(ctx, s, c) : leave(c);
  c->bvec = BIO_U64(bio, OFF_bio_bi_io_vec) + (u64)BIO_U32(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_idx) * SZ_bio_vec;
  c->skip = BIO_U32(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_bvec_done);
  c->left_in_vec = 0;
  c->vec = c->vecs = 0;
  c->parts = 0;
  c->flags = (opf & (1u << REQ_FUA) ? RHA_FLAG_FUA : 0) | (opf & (1u << REQ_PREFLUSH) ? RHA_FLAG_PREFLUSH : 0);
  if (op == RHA_WRITE && next_vec(s, c)) {
    c->reason = RHA_LOSS_READ_FAILED;
    return give_up(ctx, s, c);
  }
  if (op == RHA_WRITE && c->bio_left == CHUNK && c->left_in_vec >= CHUNK) {
    struct rha_record r = next_record(s, c, CHUNK, c->flags);
    if (put_chunk(c, &r)) return give_up(ctx, s, c);
    advance(c, CHUNK);
    return leave(c);
  }
  /* In a program of its own: the loop of the copy would be followed once for every way through this one, 700 000 steps of
   * the million that the verifier takes. */
  continuation.call(ctx, MORE);
  return give_up(ctx, s, c);
}

/* raw tracepoint block_bio_queue(struct bio *): fires once for each bio on the device that it was submitted to, before it is
 * split; its sector counts from the start of the whole disk already (submit_bio_noacct, blk_partition_remap). */
int on_queue(struct bpf_raw_tracepoint_args *ctx) {
  struct rha_state *s = shared_state();
  if (!s) return 0; /* cannot be, and nowhere to count it: an array always has its element 0 */
  return take(ctx, s, 0);
}

/* raw tracepoints block_getrq, block_bio_backmerge, block_bio_frontmerge (struct bio *): the bio has got a request, or a place in
 * one. Fires for every request of the machine, so it looks at the flags only. */
int on_accept(struct bpf_raw_tracepoint_args *ctx) {
  u32 opf = 0;
  long bad = READ(&opf, 4, ctx->args[0] + OFF_bio_bi_opf);
  if (!bad && !may_be_refused(opf)) return 0;
  struct rha_state *s = shared_state();
  if (!s) return 0;
  return bad ? blind(s) : take(ctx, s, 1);
}

/* raw tracepoint block_bio_remap(struct bio *, dev_t, sector_t): a driver passes a bio on to the device below. Mostly that is a
 * new bio, which block_bio_queue will announce. md raid0 and linear, and native NVMe multipath, pass on the one that was
 * submitted to them: it carries BIO_TRACE_COMPLETION already, so block_bio_queue stays silent and this is the only event. */
int on_remap(struct bpf_raw_tracepoint_args *ctx) {
  struct rha_state *s = shared_state();
  if (!s) return 0;
  struct bio_head bio = {};
  if (READ(&bio, sizeof(bio), ctx->args[0])) return blind(s);
  if (!(BIO_U32(bio, OFF_bio_bi_opf) & 1) || !(BIO_U16(bio, OFF_bio_bi_flags) & 1u << BIO_TRACE_COMPLETION)) return 0;
  u64 bdev = BIO_U64(bio, OFF_bio_bi_bdev), disk = 0, whole = 0;
  u32 number = 0;
  long bad = READ(&disk, 8, bdev + OFF_block_device_bd_disk);
  bad |= READ(&number, 4, bdev + OFF_block_device_bd_dev);
  bad |= READ(&whole, 8, disk + OFF_gendisk_part0);
  if (bad) return blind(s);
  /* Passed on to a partition: its sector is still counted from there. blk_partition_remap() is next, and says so again,
   * with the partition's own number. */
  if (bdev != whole && number != (u32)ctx->args[1]) return 0;
  continuation.call(ctx, QUEUE);
  return blind(s);
}

/* A bio that is not just one page in one piece, one record a call. */
int on_queue_more(struct bpf_raw_tracepoint_args *ctx) {
  struct rha_state *s = shared_state();
  struct cursor *c = shared_cursor();
  return s && c ? capture(ctx, s, c) : 0;
}

/* What is left of the bio under the cursor did not go into the ring. */
int on_queue_mark(struct bpf_raw_tracepoint_args *ctx) {
  struct rha_state *s = shared_state();
  struct cursor *c = shared_cursor();
  if (!s || !c) return 0;
  struct range r = {c->dev, c->sector, c->sector + (c->bio_left >> RHA_SECTOR_SHIFT), c->reason};
  mark_watched(s, &r);
  return leave(c);
}
