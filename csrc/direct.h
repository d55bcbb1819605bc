/* Writing into an image's own file and reading from it, at the places of clusters that it has already, beside the QEMU that
 * serves it.
 *
 * A request of 4 KiB over NBD costs 20 to 40 us of two processes, a pwrite 1 to 2. When this is safe: rha/image/direct.py. */
#ifndef RHA_DIRECT_H
#define RHA_DIRECT_H
#include <stddef.h>
#include <stdint.h>

#include "extents.h"
#include "undo.h"

/* cffi:begin */
/* `l1`: the table as in the file, in host byte order. `shut`, one byte per entry of it: not 0 where clusters may have been
 * given up since the tables were last known to be in the file. `cluster_bits` 0: the file is the disk itself. */
struct rha_direct {
  int file;
  uint32_t cluster_bits;
  uint64_t l1_count;
  const uint64_t *l1;
  const uint8_t *shut;
};

/* Writes the data extents, each as far as its clusters are there: `done[i]` bytes of extent i are written; zeros are left
 * alone. Returns 0 or an errno, of extent `*failed`. */
int rha_direct_write(const struct rha_direct *image, const struct rha_extent *extents, size_t count,
                     const uint8_t *data, uint64_t *done, size_t *failed);
/* Reads these ranges (`disk` and `kind` ignored) into `data`, one behind the other, each as far as its clusters are there:
 * `done[i]` bytes of range i. What the page cache lacks is asked of the disk many at a time. Returns as above. */
int rha_direct_read(const struct rha_direct *image, const struct rha_undo_entry *rows, size_t count, uint8_t *data,
                    uint64_t *done, size_t *failed);
/* cffi:end */

#endif
