/* Runs of ring memory that were copied elsewhere (the spool file): walked to their end, or called senseless; never read
 * beyond. */
#include <stdlib.h>

#include "input.h"
#include "ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, size};
  uint64_t begin = take64(&in), at = take8(&in) * 8ull, most = take8(&in) * 64ull, limit = take64(&in);
  size_t length = in.left & ~7ull;
  char *run = malloc(length + 1); /* where it ends the sanitizer looks */
  rha_region region;

  begin = (begin & ~7ull) >> 8;
  take(&in, run, length);
  uint64_t end = begin + length;
  for (at += begin; at < end; at = region.end) {
    if (rha_run_next(run, begin, end, at, most, limit ? begin + limit % (length + 9) : ~0ull, &region)) break;
    if (region.begin != at || region.end < at || region.end > end) abort();
    if (region.end == at) break;
    if (region.data < run || region.data + (region.end - region.begin) > run + length) abort();
  }
  free(run);
  return 0;
}
