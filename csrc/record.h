/* One captured operation, as it stands in the ring, on the wire and in the journal.
 *
 * The BPF ring buffer puts an 8-byte header {u32 length|flags, u32 page offset} before each record and pads each
 * record to 8 bytes. The engine ships ring memory as it is, so the stream is a run of
 *
 *     [8 bytes ring header][struct rha_record][payload of a write][0-7 bytes padding]
 *
 * and a record's LSN is the stream position of its ring header: positions are bytes, as PostgreSQL counts its WAL.
 * The next record's LSN is this one's end, so a gap cannot hide. Included by the probe and by the C extension.
 */
#ifndef RHA_RECORD_H
#define RHA_RECORD_H

#define RHA_LAYOUT 5 /* changes with any struct the probe shares with user space */

#define RHA_SECTOR 512
#define RHA_MAX_DISKS 16
#define RHA_SELFTEST_DISK 0xffff /* records of the self-test's scratch device; never shipped */

/* Ring header flags, from the kernel's include/uapi/linux/bpf.h (BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT). */
#define RHA_RING_BUSY (1u << 31)
#define RHA_RING_DISCARD (1u << 30)
#define RHA_RING_HEADER 8

/* cffi:begin */
enum rha_op {
  RHA_WRITE = 1,        /* payload follows, `bytes` long */
  RHA_DISCARD = 2,      /* content undefined afterwards; kept as "reads as zeros" in the image */
  RHA_WRITE_ZEROES = 3,
  RHA_SECURE_ERASE = 4,
  RHA_FLUSH = 5,        /* an empty bio with PREFLUSH */
};
/* cffi:end */

#define RHA_FLAG_FUA 1      /* the write itself is durable when it completes */
#define RHA_FLAG_PREFLUSH 2 /* everything completed before it is durable first */
#define RHA_FLAG_PARTIAL 4  /* not the last record of its bio: a bio larger than one record holds */

/* cffi:begin */
struct rha_record {
  unsigned long long sector;  /* first sector, counted from the start of the watched disk or partition */
  unsigned int bytes;         /* length of the range; a multiple of 512 */
  unsigned short disk;        /* index of the disk in its scenario */
  unsigned char op;           /* enum rha_op */
  unsigned char flags;        /* RHA_FLAG_* */
  unsigned long long time_ns; /* CLOCK_MONOTONIC at submission (bpf_ktime_get_ns) */
};
/* cffi:end */

#endif
