/* See pointmap.h. What is covered is kept as a set of sectors (sectorset.h): putting costs no search. */
#define _GNU_SOURCE
#include "pointmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "record.h"
#include "sectorset.h"

#define LONGEST_PIECE (1ull << 30) /* `length` has 32 bits */
#define GAP 8192                   /* bytes between two pieces that are read for nothing: less than another request */
#define PARTS 256                  /* of one request */

/* Pieces [0, sorted) are sorted. */
struct disk_map {
  struct rha_piece *pieces;
  size_t count, room, sorted;
  rha_sectors *covered;
};

struct rha_map {
  uint32_t disks;
  struct disk_map disk[RHA_MAX_DISKS];
};

rha_map *rha_map_new(uint32_t disks, const uint64_t *disk_bytes) {
  rha_map *map = disks <= RHA_MAX_DISKS ? calloc(1, sizeof(*map)) : NULL;

  if (!map) return NULL;
  for (; map->disks < disks; map->disks++) {
    map->disk[map->disks].covered = rha_sectors_new(disk_bytes[map->disks]);
    if (!map->disk[map->disks].covered) {
      rha_map_free(map);
      return NULL;
    }
  }
  return map;
}

void rha_map_free(rha_map *map) {
  if (!map) return;
  for (uint32_t index = 0; index < map->disks; index++) {
    rha_sectors_free(map->disk[index].covered);
    free(map->disk[index].pieces);
  }
  free(map);
}

static int append(struct disk_map *disk, struct rha_piece piece) {
  if (disk->count == disk->room) {
    size_t room = disk->room ? 2 * disk->room : 64;
    void *moved = reallocarray(disk->pieces, room, sizeof(piece));
    if (!moved) return -1;
    disk->pieces = moved;
    disk->room = room;
  }
  disk->pieces[disk->count++] = piece;
  return 0;
}

int rha_map_put(rha_map *map, uint32_t index, uint64_t offset, uint64_t length, uint32_t kind, uint32_t block,
                uint32_t at) {
  struct disk_map *disk = &map->disk[index];
  uint64_t from = offset / RHA_SECTOR, end = (offset + length) / RHA_SECTOR, first, count;

  for (; (count = rha_sectors_next_absent(disk->covered, from, end, &first)); from = first + count) {
    uint64_t most = LONGEST_PIECE / RHA_SECTOR;
    if (count > most) count = most;
    uint64_t begin = first * RHA_SECTOR;
    uint32_t place = kind == RHA_PIECE_DATA ? at + (uint32_t)(begin - offset) : 0;
    if (append(disk, (struct rha_piece){begin, (uint32_t)(count * RHA_SECTOR), block, place, kind})) return -1;
    if (rha_sectors_add(disk->covered, first, first + count)) return -1;
  }
  return 0;
}

int rha_map_put_table(rha_map *map, const struct rha_undo_entry *table, size_t count, uint32_t block) {
  uint32_t at = 0;

  for (const struct rha_undo_entry *entry = table; entry < table + count; entry++) {
    if (rha_map_put(map, entry->disk, entry->offset, entry->length, entry->kind, block, at)) return -1;
    if (entry->kind == RHA_PIECE_DATA) at += entry->length;
  }
  return 0;
}

/* The record at `at` of a checked run; returns the byte behind it. `record->op` is 0 when the probe gave it up. */
static size_t record_at(const void *run, size_t at, struct rha_record *record) {
  uint32_t header;

  memcpy(&header, (const char *)run + at, sizeof(header));
  record->op = 0;
  if (!(header & RHA_RING_DISCARD)) memcpy(record, (const char *)run + at + RHA_RING_HEADER, sizeof(*record));
  return at + ((RHA_RING_HEADER + (header & ~(RHA_RING_BUSY | RHA_RING_DISCARD)) + 7) & ~7ull);
}

static int put_record(rha_map *map, const void *run, size_t at, uint32_t block) {
  struct rha_record record;

  record_at(run, at, &record);
  if (!record.op || record.op == RHA_FLUSH) return 0;
  uint32_t kind = record.op == RHA_WRITE ? RHA_PIECE_DATA : RHA_PIECE_ZEROS;
  uint32_t payload = (uint32_t)(at + RHA_RING_HEADER + sizeof(record));
  return rha_map_put(map, record.disk, record.sector * RHA_SECTOR, record.bytes, kind, block, payload);
}

int rha_map_put_run(rha_map *map, const void *run, size_t length, uint32_t block) {
  struct rha_record record;
  size_t count = 0, next = 0;
  int error = 0;

  for (size_t at = 0; at < length; at = record_at(run, at, &record)) count++;
  size_t *begins = malloc((count ? count : 1) * sizeof(*begins));
  if (!begins) return -1;
  for (size_t at = 0; at < length; at = record_at(run, at, &record)) begins[next++] = at;
  while (next && !error) error = put_record(map, run, begins[--next], block);
  free(begins);
  return error;
}

static int by_offset(const void *left, const void *right) {
  const struct rha_piece *a = left, *b = right;

  return (a->offset > b->offset) - (a->offset < b->offset);
}

/* Merges the sorted part and the new part from their ends, into room made behind: the old part is moved once. */
static int settle(struct disk_map *disk) {
  size_t fresh = disk->count - disk->sorted, left = disk->sorted, to = disk->count;

  if (!fresh) return 0;
  if (!left) { /* all of a map that was made: one copy less */
    qsort(disk->pieces, fresh, sizeof(*disk->pieces), by_offset);
    disk->sorted = disk->count;
    return 0;
  }
  struct rha_piece *added = malloc(fresh * sizeof(*added));
  if (!added) return -1;
  memcpy(added, disk->pieces + left, fresh * sizeof(*added));
  qsort(added, fresh, sizeof(*added), by_offset);
  while (fresh) {
    int is_old = left && disk->pieces[left - 1].offset > added[fresh - 1].offset;
    disk->pieces[--to] = is_old ? disk->pieces[--left] : added[--fresh];
  }
  free(added);
  disk->sorted = disk->count;
  return 0;
}

int rha_map_settle(rha_map *map) {
  int error = 0;

  for (uint32_t index = 0; index < map->disks && !error; index++) error = settle(&map->disk[index]);
  return error;
}

const struct rha_piece *rha_map_pieces(const rha_map *map, uint32_t disk, size_t *count) {
  *count = map->disk[disk].sorted;
  return map->disk[disk].pieces;
}

size_t rha_map_find(const rha_map *map, uint32_t index, uint64_t offset) {
  const struct disk_map *disk = &map->disk[index];
  size_t low = 0, high = disk->sorted;

  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (disk->pieces[middle].offset + disk->pieces[middle].length > offset)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

int rha_pieces_gather(const struct rha_piece *pieces, size_t count, const uint32_t *which, const uint64_t *to,
                      uint8_t *const *blocks, const uint64_t *lengths, uint8_t *out, uint64_t room) {
  for (size_t i = 0; i < count; i++) {
    uint64_t length = pieces[i].length, size = lengths[which[i]];
    if (length > size || pieces[i].at > size - length || length > room || to[i] > room - length) return -1;
    memcpy(out + to[i], blocks[which[i]] + pieces[i].at, length);
  }
  return 0;
}

/* A request: neighbours in a file, and what lies between them, which goes into `waste`. */
struct request {
  int file;
  uint64_t at, end;
  int count;
  struct iovec part[PARTS];
  uint8_t waste[GAP];
};

/* Reads all of it: 0, an errno, or -1 when the file ends before. */
static int read_all(struct request *request) {
  struct iovec *part = request->part, *stop = part + request->count;

  request->count = 0;
  while (part < stop) {
    ssize_t got = preadv(request->file, part, (int)(stop - part), (off_t)request->at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? errno : -1;
    request->at += (uint64_t)got;
    for (; part < stop && (size_t)got >= part->iov_len; part++) got -= (ssize_t)part->iov_len;
    if (part < stop) *part = (struct iovec){(uint8_t *)part->iov_base + got, part->iov_len - (size_t)got};
  }
  return 0;
}

/* Adds bytes [from, from + length) of a file to the request, or begins another. As `read_all`. */
static int ask(struct request *request, int file, uint64_t from, uint8_t *data, uint64_t length) {
  int is_near = request->count && request->file == file && from >= request->end && from - request->end <= GAP;

  if (!is_near || request->count + 2 > PARTS) {
    int error = read_all(request);
    if (error) return error;
    request->file = file;
    request->at = request->end = from;
  }
  if (from > request->end) request->part[request->count++] = (struct iovec){request->waste, from - request->end};
  request->end = from + length;
  struct iovec *last = request->count ? &request->part[request->count - 1] : NULL;
  if (last && (uint8_t *)last->iov_base + last->iov_len == data)
    last->iov_len += length;
  else
    request->part[request->count++] = (struct iovec){data, length};
  return 0;
}

int rha_pieces_read(const struct rha_piece *pieces, size_t count, const uint32_t *which, const uint64_t *to,
                    const struct rha_place *places, uint8_t *out, uint64_t room) {
  struct request request = {0};
  int error = 0;

  for (size_t i = 0; i < count && !error; i++) {
    const struct rha_place *place = &places[which[i]];
    uint64_t length = pieces[i].length;
    if (length > place->length || pieces[i].at > place->length - length || length > room || to[i] > room - length) return -1;
    error = ask(&request, place->file, place->begin + pieces[i].at, out + to[i], length);
  }
  return error ? error : read_all(&request);
}

size_t rha_run_prefix(const void *run, size_t length, size_t limit, uint64_t until_ns) {
  struct rha_record record;
  size_t at = 0;

  while (at < length) {
    size_t next = record_at(run, at, &record);
    if (next > limit || (until_ns && record.op && record.time_ns > until_ns)) break;
    at = next;
  }
  return at;
}
