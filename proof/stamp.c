/* Writes stamps: every sector says who wrote it, where, and as the how-manieth write.
 *
 *     stamp LOG CAPACITY SEED THREADS PAUSE_US LONGEST_SECTORS DEVICE...
 *
 * THREADS writers with one O_DIRECT write each in flight, at random places of the devices, from memory that begins
 * anywhere a device allows; one write in 64 is followed by an fsync. PAUSE_US is each thread's wait between two writes.
 * SIGUSR1 takes the pause away, SIGUSR2 gives it back. Until SIGTERM, or until the log of CAPACITY entries is full. The log lies in memory that outlives a kill (a mapped file,
 * off the watched disks) and says of every write when it was submitted and when it was complete, both CLOCK_MONOTONIC, the
 * first read before the system call and the second after it: so "complete before submitted" is never claimed wrongly.
 *
 * Two writes that overlap are never in flight together: the sequence is then the order of the writes of each sector.
 * Read by proof/stamp.py, which has the layouts again. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 512
#define MAGIC 0x50415453414852ull /* "RHASTAP" */
#define MAX_THREADS 64
#define MAX_DEVICES 16
#define FSYNC_EVERY 64

struct stamp { /* the first 48 bytes of a sector; the rest is noise that the sum covers, too */
  uint64_t magic, device, sector, sequence, writer, sum;
};

struct entry { /* one write; `completed` 0: not (yet) complete, all ones: it failed */
  uint64_t submitted, completed, sector;
  uint32_t sectors;
  uint16_t device, writer;
};

struct place { uint64_t device, first, end; };

static struct entry *entries;
static uint64_t capacity, issued; /* sequences count from 1; entry i is sequence i + 1 */
static int devices[MAX_DEVICES];
static uint64_t sizes[MAX_DEVICES];
static unsigned ndevices, longest, pause_us;
static struct place flying[MAX_THREADS]; /* guarded by `lock`, as `issued` is */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile sig_atomic_t stopping, hurried;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* splitmix64, public domain (Vigna): small, and good enough for places and noise. */
static uint64_t draw(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

static void fill(char *sector, struct stamp s) {
  uint64_t words[SECTOR / 8], state = s.sequence << 20 ^ s.sector, sum = 0;
  for (int i = 6; i < SECTOR / 8; i++) words[i] = draw(&state);
  memcpy(words, &s, sizeof(s));
  words[5] = 0;
  for (int i = 0; i < SECTOR / 8; i++) sum += words[i] * (2 * i + 1);
  words[5] = sum;
  memcpy(sector, words, SECTOR);
}

static int overlaps(struct place p) {
  for (int i = 0; i < MAX_THREADS; i++)
    if (flying[i].device == p.device && flying[i].first < p.end && p.first < flying[i].end) return 1;
  return 0;
}

/* Half of the writes fall into the first sixteenth of a device, so that sectors are written over and over. */
static struct place choose(uint64_t *seed) {
  static const unsigned lengths[] = {1, 3, 8, 8, 8, 32, 0, 0};
  unsigned wanted = lengths[draw(seed) & 7];
  if (!wanted) wanted = 1 + draw(seed) % longest;
  if (wanted > longest) wanted = longest;
  struct place p = {.device = draw(seed) % ndevices};
  uint64_t room = draw(seed) & 1 ? sizes[p.device] / 16 : sizes[p.device];
  p.first = draw(seed) % (room - wanted);
  p.end = p.first + wanted;
  return p;
}

/* Takes a place that no other write in flight touches, and the next sequence. 0: the log is full. */
static uint64_t begin(unsigned writer, uint64_t *seed, struct place *p) {
  uint64_t sequence = 0;
  pthread_mutex_lock(&lock);
  do *p = choose(seed);
  while (overlaps(*p));
  if (issued < capacity) {
    flying[writer] = *p;
    sequence = ++issued;
  }
  pthread_mutex_unlock(&lock);
  return sequence;
}

static void finish(unsigned writer) {
  pthread_mutex_lock(&lock);
  flying[writer] = (struct place){0};
  pthread_mutex_unlock(&lock);
}

static void write_once(unsigned writer, uint64_t sequence, struct place p, char *memory, uint64_t *seed) {
  char *start = memory + (draw(seed) & 3 ? 0 : SECTOR * (draw(seed) & 7));
  for (uint64_t i = p.first; i < p.end; i++)
    fill(start + (i - p.first) * SECTOR, (struct stamp){MAGIC, p.device, i, sequence, writer, 0});
  struct entry *e = &entries[sequence - 1];
  *e = (struct entry){.sector = p.first, .sectors = p.end - p.first, .device = p.device, .writer = writer};
  __atomic_store_n(&e->submitted, now(), __ATOMIC_SEQ_CST);
  size_t length = (p.end - p.first) * SECTOR;
  ssize_t done = pwrite(devices[p.device], start, length, p.first * SECTOR);
  __atomic_store_n(&e->completed, done == (ssize_t)length ? now() : ~0ull, __ATOMIC_SEQ_CST);
}

static void *work(void *argument) {
  unsigned writer = (uintptr_t)argument >> 48;
  uint64_t seed = (uintptr_t)argument, sequence;
  struct place p;
  char *memory = mmap(NULL, (longest + 8) * SECTOR, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) abort();
  while (!stopping && (sequence = begin(writer, &seed, &p))) {
    write_once(writer, sequence, p, memory, &seed);
    finish(writer);
    if (draw(&seed) % FSYNC_EVERY == 0) fsync(devices[p.device]);
    if (pause_us && !hurried) usleep(pause_us);
  }
  return NULL;
}

static void on_signal(int number) {
  if (number == SIGTERM || number == SIGINT) stopping = 1;
  hurried = number == SIGUSR1;
}

static int fail(const char *what) {
  fprintf(stderr, "error: %s\ncause: %s\n", what, strerror(errno));
  return 1;
}

static int open_log(const char *path) {
  int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, capacity * sizeof(struct entry))) return -1;
  entries = mmap(NULL, capacity * sizeof(struct entry), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return entries == MAP_FAILED ? -1 : 0;
}

static int open_device(const char *path) {
  int file = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
  if (file < 0) return -1;
  devices[ndevices] = file;
  sizes[ndevices++] = lseek(file, 0, SEEK_END) / SECTOR;
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 8 || argc > 7 + MAX_DEVICES) {
    fprintf(stderr, "usage: stamp LOG CAPACITY SEED THREADS PAUSE_US LONGEST_SECTORS DEVICE...\n");
    return 2;
  }
  capacity = strtoull(argv[2], NULL, 10);
  uint64_t seed = strtoull(argv[3], NULL, 10);
  unsigned threads = atoi(argv[4]);
  pause_us = atoi(argv[5]);
  longest = atoi(argv[6]);
  if (threads < 1 || threads > MAX_THREADS || longest < 1 || !capacity) return 2;
  if (open_log(argv[1])) return fail(argv[1]);
  for (int i = 7; i < argc; i++)
    if (open_device(argv[i])) return fail(argv[i]);
  const int numbers[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
  for (unsigned i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) signal(numbers[i], on_signal);
  puts("writing");
  fflush(stdout);
  pthread_t all[MAX_THREADS];
  for (uint64_t i = 0; i < threads; i++) {
    uint64_t mine = (draw(&seed) & ((1ull << 48) - 1)) | i << 48;
    if ((errno = pthread_create(&all[i], NULL, work, (void *)mine))) return fail("pthread_create");
  }
  for (unsigned i = 0; i < threads; i++) pthread_join(all[i], NULL);
  return 0;
}
