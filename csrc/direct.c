#define _GNU_SOURCE
#include "direct.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* Entries of the tables, docs/interop/qcow2.txt in QEMU: bit 63 says that nothing else refers to the cluster, bit 62 that
 * it is compressed, bit 0 that it reads as zeros whatever is in it. */
#define COPIED (1ull << 63)
#define COMPRESSED (1ull << 62)
#define READS_AS_ZEROS 1ull
#define OFFSET_MASK 0x00fffffffffffe00ull
#define RUN 64      /* clusters moved at once: 4 MiB of disk with clusters of 64 KiB */
#define ENTRIES 512 /* of a table, read at once: writes at random places are sorted, so their neighbours need them too */
#define LATER 256

/* Entries of one table as the file has them. They are good for a call: only the daemon changes tables, and while we write
 * it has nothing to do. While we read it may, but a cluster that loses its place then is not read (undo), or what was read
 * does not count (comparisons): rha/image/direct.py, chain.py. */
struct entries {
  uint64_t table, first, count; /* from entry `first` of table number `table` on; none yet when `count` is 0 */
  uint64_t entry[ENTRIES];
};

/* Parts of a file whose reading was begun. */
struct part {
  uint8_t *data;
  uint64_t length, at;
};
struct later {
  size_t count;
  struct part part[LATER];
};

/* Has the block of a table that entry `index` lies in: 0, or -1 with errno. */
static int have_entries(const struct rha_direct *image, struct entries *known, uint64_t table, uint64_t index) {
  uint64_t first = index / ENTRIES * ENTRIES;

  if (known->count && known->table == table && known->first == first) return 0;
  uint64_t at = (image->l1[table] & OFFSET_MASK) + first * 8, per_table = 1ull << (image->cluster_bits - 3);
  uint64_t wanted = per_table - first < ENTRIES ? per_table - first : ENTRIES;
  known->count = 0;
  ssize_t got = pread(image->file, known->entry, wanted * 8, (off_t)at);
  if (got < 0) return -1;
  known->table = table;
  known->first = first;
  known->count = (uint64_t)got / 8;
  return 0;
}

/* Looks up the clusters from number `first` on, at most RUN and none beyond their block of the table. Sets `places` and
 * returns how many in a row can be moved, 0 when the first cannot; -1 with errno. */
static int look_up(const struct rha_direct *image, struct entries *known, uint64_t first, uint64_t wanted,
                   uint64_t *places) {
  uint64_t per_table = 1ull << (image->cluster_bits - 3);
  uint64_t table = first / per_table, index = first % per_table, count = wanted < RUN ? wanted : RUN;
  uint64_t found = 0;

  if (table >= image->l1_count || image->shut[table] || !(image->l1[table] & COPIED)) return 0;
  if (have_entries(image, known, table, index)) return -1;
  index -= known->first;
  for (; found < count && index + found < known->count; found++) {
    uint64_t entry = be64toh(known->entry[index + found]);
    places[found] = entry & OFFSET_MASK;
    if (!(entry & COPIED) || entry & (COMPRESSED | READS_AS_ZEROS) || !places[found]) break;
  }
  return (int)found;
}

/* Moves bytes between memory and file: all of them, or -1 with errno. */
typedef int move(struct later *later, int file, uint8_t *data, uint64_t length, uint64_t at);

static int write_all(struct later *later, int file, uint8_t *data, uint64_t length, uint64_t at) {
  (void)later;
  while (length) {
    ssize_t written = pwrite(file, data, length, (off_t)at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return -1;
    data += written;
    length -= (uint64_t)written;
    at += (uint64_t)written;
  }
  return 0;
}

/* What is not in the file, since nothing was written behind the begin of its last cluster, reads as zeros. */
static int read_all(int file, uint8_t *data, uint64_t length, uint64_t at) {
  while (length) {
    ssize_t got = pread(file, data, length, (off_t)at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (!got) {
      memset(data, 0, length);
      return 0;
    }
    data += got;
    length -= (uint64_t)got;
    at += (uint64_t)got;
  }
  return 0;
}

static int read_later(struct later *later, int file) {
  int error = 0;

  for (size_t i = 0; i < later->count && !error; i++)
    error = read_all(file, later->part[i].data, later->part[i].length, later->part[i].at);
  later->count = 0;
  return error;
}

/* What the page cache has is copied at once. The rest is only begun, so that the disk has many requests at a time. */
static int read_or_begin(struct later *later, int file, uint8_t *data, uint64_t length, uint64_t at) {
  struct iovec there = {data, length};
  ssize_t got = preadv2(file, &there, 1, (off_t)at, RWF_NOWAIT);

  if (got < 0 && errno != EAGAIN && errno != EOPNOTSUPP && errno != EINTR) return -1;
  if (got < 0) got = 0;
  if ((uint64_t)got == length) return 0;
  if (later->count == LATER && read_later(later, file)) return -1;
  uint64_t left = length - (uint64_t)got;
  posix_fadvise(file, (off_t)at + got, (off_t)left, POSIX_FADV_WILLNEED);
  later->part[later->count++] = (struct part){data + got, left, at + (uint64_t)got};
  return 0;
}

/* Moves the clusters that were looked up, neighbours in the file as one, from byte `skip` of the first one on, and `length`
 * bytes at most. Returns how many bytes, or -1. */
static int64_t move_run(const struct rha_direct *image, move *how, struct later *later, const uint64_t *places, int count,
                        uint64_t skip, uint8_t *data, uint64_t length) {
  uint64_t size = 1ull << image->cluster_bits, done = 0;

  for (int i = 0, next; i < count; i = next) {
    for (next = i + 1; next < count && places[next] == places[next - 1] + size;) next++;
    uint64_t part = (uint64_t)(next - i) * size - skip;
    if (part > length - done) part = length - done;
    if (how(later, image->file, data + done, part, places[i] + skip)) return -1;
    done += part;
    skip = 0;
  }
  return (int64_t)done;
}

/* As much of [offset, offset + length) of the disk as lies in clusters that are there; -1 with errno. */
static int64_t move_range(const struct rha_direct *image, struct entries *known, move *how, struct later *later,
                          uint64_t offset, uint64_t length, uint8_t *data) {
  uint64_t places[RUN], done = 0;

  if (!image->cluster_bits) return how(later, image->file, data, length, offset) ? -1 : (int64_t)length;
  while (done < length) {
    uint64_t at = offset + done, left = length - done, skip = at & ((1ull << image->cluster_bits) - 1);
    uint64_t wanted = (skip + left + (1ull << image->cluster_bits) - 1) >> image->cluster_bits;
    int found = look_up(image, known, at >> image->cluster_bits, wanted, places);
    if (found <= 0) return found < 0 ? -1 : (int64_t)done;
    int64_t moved = move_run(image, how, later, places, found, skip, data + done, left);
    if (moved < 0) return -1;
    done += (uint64_t)moved;
  }
  return (int64_t)done;
}

int rha_direct_read(const struct rha_direct *image, const struct rha_undo_entry *rows, size_t count, uint8_t *data,
                    uint64_t *done, size_t *failed) {
  struct later later = {0};
  struct entries known = {0};

  for (size_t i = 0; i < count; data += rows[i++].length) {
    int64_t got = move_range(image, &known, read_or_begin, &later, rows[i].offset, rows[i].length, data);
    *failed = i;
    if (got < 0) return errno;
    done[i] = (uint64_t)got;
  }
  return read_later(&later, image->file) ? errno : 0;
}

int rha_direct_write(const struct rha_direct *image, const struct rha_extent *extents, size_t count,
                     const uint8_t *data, uint64_t *done, size_t *failed) {
  struct entries known = {0};

  for (size_t i = 0; i < count; i++) {
    done[i] = 0;
    if (extents[i].kind != RHA_EXTENT_DATA) continue;
    uint8_t *from = (uint8_t *)data + extents[i].data; /* `move` serves both ways; writing changes nothing there */
    int64_t written = move_range(image, &known, write_all, NULL, extents[i].offset, extents[i].length, from);
    if (written < 0) {
      *failed = i;
      return errno;
    }
    done[i] = (uint64_t)written;
  }
  return 0;
}
