/* Checksums that Python calls without holding its lock. */
#ifndef RHA_HASHING_H
#define RHA_HASHING_H
#include <stddef.h>
#include <stdint.h>

/* cffi:begin */
uint64_t rha_xxh3(const void *data, size_t length);
/* 1 when every byte is zero. */
int rha_is_zero(const void *data, size_t length);
/* cffi:end */

#endif
