#define XXH_INLINE_ALL
#include "hashing.h"

#include <string.h>
#include <xxhash.h>

uint64_t rha_xxh3(const void *data, size_t length) { return XXH3_64bits(data, length); }

/* Compares the buffer with itself one byte on: libc's memcmp is the fastest loop there is, and no SIMD is written here. */
int rha_is_zero(const void *data, size_t length) {
  const char *bytes = data;
  return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}
