/* A qcow2's tables as somebody may have made them: reading and writing at the places they name stays within the buffers,
 * and ends. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

#include "direct.h"
#include "input.h"

#define ROWS 4
#define FILE_BYTES (1 << 16)

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc, (void)argv;
  /* An entry may name any place up to 2^56: a sparse file of that length is refused, not made. */
  signal(SIGXFSZ, SIG_IGN);
  return setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 20, 1 << 20});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, size};
  uint64_t l1[4], done[ROWS];
  uint8_t shut[4] = {0}, bits = take8(&in), buffer[ROWS * 4096];
  size_t failed;
  struct rha_undo_entry rows[ROWS];
  struct rha_extent extents[ROWS];

  take(&in, l1, sizeof(l1));
  shut[3] = take8(&in);
  for (int i = 0; i < ROWS; i++) {
    uint64_t offset = take64(&in) & ~511ull;
    if (bits & 64) offset %= 1 << 20;
    uint32_t length = 512u * (1 + take8(&in) % 8);
    rows[i] = (struct rha_undo_entry){offset, length, 0, RHA_PIECE_DATA};
    extents[i] = (struct rha_extent){.offset = offset, .length = length, .data = 4096ull * i, .kind = RHA_EXTENT_DATA};
  }
  int file = memfd_create("image", 0);
  if (file < 0 || ftruncate(file, FILE_BYTES) || pwrite(file, in.data, in.left, 0) < 0) abort();
  struct rha_direct image = {file, bits & 128 ? 0 : 9 + bits % 13, 4, l1, shut};
  if (rha_direct_read(&image, rows, ROWS, buffer, done, &failed) == 0)
    for (int i = 0; i < ROWS; i++)
      if (done[i] > rows[i].length) abort();
  if (rha_direct_write(&image, extents, ROWS, buffer, done, &failed) == 0)
    for (int i = 0; i < ROWS; i++)
      if (done[i] > extents[i].length) abort();
  close(file);
  return 0;
}
