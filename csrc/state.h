/* State that the probe in the kernel and the engine share, besides the records (record.h): one value of a mmapable BPF
 * array each. The engine reads and writes it through mmap; nothing here is copied by system calls. */
#ifndef RHA_STATE_H
#define RHA_STATE_H

#include "record.h"

#define RHA_BLOCK_SHIFT 16 /* one bit of a bitmap stands for 64 KiB */
#define RHA_SECTOR_SHIFT 9

#define RHA_MAX_SPARED 64

/* cffi:begin */
enum rha_mode {
  RHA_MODE_OFF = 0,    /* not watched */
  RHA_MODE_BITMAP = 1, /* every write sets the bits of its range */
  RHA_MODE_DATA = 2,   /* every write goes into the ring */
};

/* Why a write is not in the ring, or not on the disk as captured. Index of rha_counters.lost. */
enum rha_loss {
  RHA_LOSS_RING_FULL = 0,
  RHA_LOSS_READ_FAILED = 1, /* a page of the bio could not be read */
  RHA_LOSS_TOO_LARGE = 2,   /* a bio of more records than the probe may write at once */
  RHA_LOSS_STRADDLES = 3,   /* a write of the whole disk across the edge of the watched partition */
  RHA_LOSS_WRITE_ERROR = 4, /* the device reported an error: disk and stream differ */
  RHA_LOSS_ZONE_APPEND = 5, /* the device chooses the sector: not known at submission */
  RHA_LOSS_ENCRYPTED = 6,   /* the block layer encrypts the payload below the probe (blk-crypto) */
  RHA_LOSS_UNTRACKED = 7,   /* captured, but more bios in flight than the probe keeps: its end will not be seen */
  RHA_LOSSES = 8,
};

struct rha_disk {
  unsigned long long dev;     /* major << 20 | first minor of the whole disk; 0: free slot */
  unsigned long long start;   /* first sector of the watched part */
  unsigned long long sectors; /* its length */
  unsigned long long diskseq; /* tells a device from another one under the same number */
  unsigned int mode;          /* enum rha_mode */
  unsigned int tracking;      /* 1: completed writes set bits too (the late set of a resync) */
  unsigned int all_dirty;     /* 1: more was written at once than the probe marks bit by bit */
  unsigned int trusted;       /* 1: image + stream + bitmap together miss nothing; 2: the same, by comparison (the engine's) */
  unsigned long long bitmap_word;  /* where its bits begin in the planes `dirty` and `pending`, in u64 words */
  unsigned long long bitmap_words;
  unsigned int bio_based; /* 1: no request queue; the probe keeps each write until the end of its bio */
  unsigned int epoch;     /* index, 0 or 1, into departed and arrived; the engine turns it over to drain */
  unsigned long long unsettled_ns; /* CLOCK_MONOTONIC of the last write of a bio-based disk that the probe does not keep */
  unsigned long long settled_ns;   /* written by the engine: those up to this time have ended */
};

/* Sectors of the whole disk, [begin, end), whole bitmap blocks of the watched part. */
struct rha_range {
  unsigned long long begin, end;
};

struct rha_state {
  unsigned int layout; /* RHA_LAYOUT */
  unsigned int ndisks;
  unsigned char generation[16];
  unsigned long long lsn_base; /* LSN of ring position 0; 0: not chosen yet */
  unsigned long long vmemmap, direct_map;
  unsigned long long ring_bytes;
  unsigned int ncpus;
  unsigned int misses_seen; /* recursion misses that the engine has answered with a resync */
  unsigned int tracking;    /* 1: some disk is tracked */
  unsigned int bio_based;   /* 1: some disk is */
  unsigned int reserved;
  struct rha_disk disk[16]; /* RHA_MAX_DISKS */
  unsigned long long blind;      /* calls of the probe that could not read what they were called for */
  unsigned long long blind_seen; /* as misses_seen */
  /* The master's own spool on a watched disk: writes inside are not captured. Only while its engine lives and looks after
   * the file: should these blocks ever become another file's, their writes must not be missed. */
  unsigned long long spared_until; /* CLOCK_MONOTONIC ns */
  unsigned long long spared_dev;   /* as rha_disk.dev */
  unsigned long long spared_inode, spared_version; /* of the file, to know it again */
  unsigned int spared_disk;        /* index of the watched disk */
  unsigned int spared_count;
  struct rha_range spared[64];     /* RHA_MAX_SPARED, ascending */
};

/* One per CPU and disk, index cpu * RHA_MAX_DISKS + disk: no CPU waits for another. */
struct rha_counters {
  unsigned long long records, payload_bytes;
  unsigned long long marked; /* writes that set bits because the disk was in bitmap mode */
  unsigned long long gap;    /* ring position | 1 of the first lost write since the engine cleared it; 0: none */
  unsigned long long lost[8]; /* RHA_LOSSES */
  /* Writes of a bio-based disk submitted, and those among them that have ended, by the epoch of their submission. */
  unsigned long long departed[2], arrived[2];
};
/* cffi:end */

#endif
