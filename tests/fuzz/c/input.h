/* Takes a fuzzer's bytes apart. Reading beyond their end gives zeros. */
#ifndef INPUT_H
#define INPUT_H
#include <stdint.h>
#include <string.h>

struct input {
  const uint8_t *data;
  size_t left;
};

static inline void take(struct input *in, void *to, size_t length) {
  size_t there = length < in->left ? length : in->left;

  memset(to, 0, length);
  if (there) memcpy(to, in->data, there);
  in->data += there;
  in->left -= there;
}

static inline uint8_t take8(struct input *in) {
  uint8_t value;
  take(in, &value, 1);
  return value;
}

static inline uint64_t take64(struct input *in) {
  uint64_t value;
  take(in, &value, 8);
  return value;
}

#endif
