/* The end of writes: which have completed since the epoch mark (the late set of a resync), which failed, and, for disks
 * without a request queue, which are still on their way. Second part of the probe, see marks.bpf.c.
 *
 * A disk with a request queue says at the end of a request which sectors it was (block_rq_complete, block_rq_error). Its
 * bios end unseen: blk_update_request() takes BIO_TRACE_COMPLETION from them first. A bio-based disk (device mapper, md,
 * zram) has no requests, and at the end of a bio its bi_iter may have been moved: a driver splits pieces off the front
 * (bio_split, bio_trim) and what is left says where the rest began. So the probe keeps sector and length of each such bio by
 * its address. The address that was submitted ends last: bio_chain() lets it wait for every piece. */

#define STATUS_NOT_SUPPORTED 1 /* BLK_STS_NOTSUPP */
#define STATUS_AGAIN 12        /* BLK_STS_AGAIN */

/* The part of a bio that matters, read at once: structures read whole instead of field by field took the
 * probe from 1.36 to 0.91 us per 4 KiB write. */
#define BIO_HEAD (OFF_bio_bi_io_vec + 8)
struct bio_head { u8 bytes[BIO_HEAD]; } __attribute__((aligned(8)));
_Static_assert(OFF_bio_bi_bdev < BIO_HEAD && OFF_bio_bi_opf < BIO_HEAD && OFF_bio_bi_flags < BIO_HEAD &&
  OFF_bio_bi_status < BIO_HEAD && OFF_bio_bi_iter + SZ_bvec_iter <= BIO_HEAD, "bio");
#define BIO_U8(head, offset) ((head).bytes[offset])
#define BIO_U16(head, offset) (*(u16 *)((head).bytes + (offset)))
#define BIO_U32(head, offset) (*(u32 *)((head).bytes + (offset)))
#define BIO_U64(head, offset) (*(u64 *)((head).bytes + (offset)))

/* A write of a bio-based disk, in sectors of the whole device. `disk`: the first watched disk that it touches. */
struct flight { u64 sector, end; u32 disk, epoch; };
BPF_F_TABLE("hash", u64, struct flight, flights, FLIGHTS, 0); /* by address of the bio */

static inline void arrive(struct flight *f) {
  struct rha_counters *n = counters_of(f->disk);
  if (n) __sync_fetch_and_add(&n->arrived[f->epoch & 1], 1);
}

/* Keeps a write until it ends. 0 when it is kept. */
static inline int depart(struct rha_disk *d, u32 disk, u64 bio, u64 sector, u64 end) {
  struct flight f = {.sector = sector, .end = end, .disk = disk, .epoch = d->epoch & 1};
  struct rha_counters *n = counters_of(disk);
  if (!n) return -1;
  if (flights.insert(&bio, &f)) {
    struct flight *old = flights.lookup(&bio);
    if (!old) { /* no room */
      d->unsettled_ns = bpf_ktime_get_ns();
      return -1;
    }
    arrive(old); /* its memory is a new bio's: it has ended unseen */
    *old = f;
  }
  __sync_fetch_and_add(&n->departed[f.epoch & 1], 1); /* masked again: f has been in memory that the verifier forgets */
  return 0;
}

/* A device that cannot write zeroes says so once, and the kernel writes them itself: nothing differs. */
static inline u32 is_failure(u32 op, u32 status) {
  return status && !(op == REQ_OP_WRITE_ZEROES && status == STATUS_NOT_SUPPORTED);
}

/* Was this bio ended before it became a request, because it would have had to wait? */
static inline u32 was_refused(u32 opf, u32 status) {
  return status == STATUS_AGAIN && (opf & 0xff) == REQ_OP_WRITE && opf & (1u << REQ_NOWAIT);
}

/* The range of a request's end. 1 when it ends a write, 0 when it ends none, -1 when it cannot be read. */
static inline int read_request(struct bpf_raw_tracepoint_args *ctx, struct range *r) {
  u64 rq = ctx->args[0], bytes = (u32)ctx->args[2], queue = 0, disk = 0;
  u32 flags = 0;
  long bad = READ(&flags, 4, rq + OFF_request_cmd_flags);
  if (!bad && (!(flags & 1) || !bytes)) return 0;
  bad |= READ(&queue, 8, rq + OFF_request_q);
  bad |= READ(&disk, 8, queue + OFF_request_queue_disk);
  bad |= READ(&r->sector, 8, rq + OFF_request___sector);
  if (bad) return -1;
  if (!disk) return 0; /* a command to a controller */
  r->dev = disk_number(disk);
  r->end = r->sector + (bytes >> RHA_SECTOR_SHIFT);
  r->only_tracked = !is_failure(flags & 0xff, ctx->args[1] & 0xff);
  return r->dev ? 1 : -1;
}

/* raw tracepoint block_rq_complete(struct request *, blk_status_t, unsigned int bytes); attached while a disk is tracked */
int on_complete(struct bpf_raw_tracepoint_args *ctx) {
  struct range r = {.reason = RHA_LOSS_WRITE_ERROR};
  struct rha_state *s = shared_state();
  if (!s) return 0;
  int kind = read_request(ctx, &r);
  if (kind < 0) return blind(s);
  r.only_tracked = 1; /* a failure is on_error's */
  if (kind) mark_watched(s, &r);
  return 0;
}

/* raw tracepoint block_rq_error(struct request *, blk_status_t, unsigned int bytes) */
int on_error(struct bpf_raw_tracepoint_args *ctx) {
  struct range r = {.reason = RHA_LOSS_WRITE_ERROR};
  struct rha_state *s = shared_state();
  if (!s) return 0;
  int kind = read_request(ctx, &r);
  if (kind < 0) return blind(s);
  if (kind && !r.only_tracked) mark_watched(s, &r);
  return 0;
}

/* raw tracepoint block_bio_complete(struct request_queue *, struct bio *): bios of bio-based disks, and those of other
 * disks that ended before they became a request. */
int on_bio_complete(struct bpf_raw_tracepoint_args *ctx) {
  struct rha_state *s = shared_state();
  if (!s) return 0;
  struct bio_head bio = {};
  u64 address = ctx->args[1];
  if (READ(&bio, sizeof(bio), address)) return blind(s);
  u32 op = BIO_U32(bio, OFF_bio_bi_opf) & 0xff;
  if (!(op & 1)) return 0;
  struct range r = {.reason = RHA_LOSS_WRITE_ERROR, .only_tracked = !is_failure(op, BIO_U8(bio, OFF_bio_bi_status))};
  struct flight *f = flights.lookup(&address);
  if (!f && r.only_tracked && !s->tracking) return 0;
  if (!f && was_refused(BIO_U32(bio, OFF_bio_bi_opf), BIO_U8(bio, OFF_bio_bi_status))) return 0; /* not captured either */
  if (f) {
    r.dev = s->disk[f->disk & (RHA_MAX_DISKS - 1)].dev;
    r.sector = f->sector;
    r.end = f->end;
  } else {
    r.dev = disk_number(rd64(BIO_U64(bio, OFF_bio_bi_bdev) + OFF_block_device_bd_disk));
    if (!r.dev) return blind(s);
    r.sector = BIO_U64(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_sector);
    r.end = r.sector + (BIO_U32(bio, OFF_bio_bi_iter + OFF_bvec_iter_bi_size) >> RHA_SECTOR_SHIFT);
  }
  if (!r.only_tracked || s->tracking) mark_watched(s, &r);
  f = flights.lookup(&address);
  if (f) { /* after the marks: when all have arrived, the engine closes the window */
    arrive(f);
    flights.delete(&address);
  }
  return 0;
}
