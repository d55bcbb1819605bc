/* Finds, once per boot, where the kernel keeps `struct page` and the direct map: one page of known frame number is
 * written through a scratch device. `bv_page - frame * sizeof(struct page)` is vmemmap; the direct map is found by
 * trying 1 GiB steps down from the gendisk, which is kmalloc'ed and so lies in it (a synchronous O_DIRECT bio lies on the stack).
 * Needs neither kallsyms nor /proc/kcore, whatever KASLR chose. */
#include "kernel.h"

BPF_ARRAY(known, u64, 3); /* device number, frame number, first 8 bytes of the page */
BPF_ARRAY(found, u64, 2); /* vmemmap, direct map */

#define STEP_SHIFT 30
#define MAX_STEPS 4096

int on_queue(struct bpf_raw_tracepoint_args *ctx) {
  u64 bio = ctx->args[0];
  int k0 = 0, k1 = 1, k2 = 2;
  u64 *dev = known.lookup(&k0), *frame = known.lookup(&k1), *magic = known.lookup(&k2);
  if (!dev || !frame || !magic) return 0;
  u64 disk = rd64(rd64(bio + OFF_bio_bi_bdev) + OFF_block_device_bd_disk);
  if (disk_number(disk) != *dev) return 0;
  u32 opf = 0;
  if (READ(&opf, 4, bio + OFF_bio_bi_opf) || (opf & 0xff) != REQ_OP_WRITE) return 0; /* udev reads whatever is new */
  u64 vmemmap = rd64(rd64(bio + OFF_bio_bi_io_vec) + OFF_bio_vec_bv_page) - *frame * SZ_page;
  found.update(&k0, &vmemmap);
  u64 base = disk & ~((1ull << STEP_SHIFT) - 1);
  for (int i = 0; i < MAX_STEPS; i++) {
    u64 candidate = base - ((u64)i << STEP_SHIFT), value = 0;
    if (!READ(&value, 8, candidate + (*frame << 12)) && value == *magic) {
      found.update(&k1, &candidate);
      break;
    }
  }
  return 0;
}
