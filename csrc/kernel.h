/* Reading the kernel's structures, for the programs that bcc compiles. Offsets come as OFF_struct_field from the running
 * kernel's BTF (rha/capture/probe.py). Each call of the reading helper costs some 40 ns. */
#ifndef RHA_KERNEL_H
#define RHA_KERNEL_H

/* 0 when `size` bytes at `address` were read. */
#define READ(to, size, address) bpf_probe_read_kernel((to), (size), (void *)(address))

/* The value at `address`; 0 when it cannot be read. */
static inline u64 rd64(u64 address) {
  u64 value = 0;
  READ(&value, 8, address);
  return value;
}

static inline u32 rd32(u64 address) {
  u32 value = 0;
  READ(&value, 4, address);
  return value;
}

/* major << 20 | first minor of a gendisk; 0, which no disk has, when it cannot be read. */
static inline u64 disk_number(u64 gendisk) {
  /* The two stand side by side in every kernel so far. */
  _Static_assert(OFF_gendisk_first_minor == OFF_gendisk_major + 4, "gendisk");
  u64 both = rd64(gendisk + OFF_gendisk_major);
  return (both & 0xffffffff) << 20 | both >> 32;
}

#endif
