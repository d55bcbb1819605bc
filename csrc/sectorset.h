/* The minus rule: which sectors of a disk has the stream written since the epoch mark? Two levels, 1 MiB of disk per
 * chunk, so an untouched disk costs 8 bytes per MiB and a chunk written all over costs nothing more. */
#ifndef RHA_SECTORSET_H
#define RHA_SECTORSET_H
#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
typedef struct rha_sectors rha_sectors;

/* An empty set for one disk, or NULL without memory. */
rha_sectors *rha_sectors_new(uint64_t disk_bytes);
void rha_sectors_free(rha_sectors *set);
/* Adds sectors [first, end); both are cut at the disk's end. -1 without memory. */
int rha_sectors_add(rha_sectors *set, uint64_t first, uint64_t end);
/* Adds what the records of `disk` change in a run that rha_run_check accepted. -1 without memory. */
int rha_sectors_add_run(rha_sectors *set, uint32_t disk, const void *run, size_t length);
/* The next run of sectors of [from, end) that are not in the set: its length, its first sector in *first; 0: none. */
uint64_t rha_sectors_next_absent(const rha_sectors *set, uint64_t from, uint64_t end, uint64_t *first);
/* Memory that the set takes, in bytes. */
uint64_t rha_sectors_memory(const rha_sectors *set);
/* cffi:end */

#endif
