/* Many threads use one volume, and handles are closed while others use them. */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 6, ROUNDS = 60, PIECE = 8192 };

static archip_store store;
static archip_volume volume;
static atomic_int refused;

static void *writes_and_reads(void *number) {
  int own = (int)(intptr_t)number;
  unsigned char out[PIECE], in[PIECE];
  for (int round = 0; round < ROUNDS; round++) {
    uint64_t at = (uint64_t)(own * ROUNDS + round) * PIECE;
    memset(out, own * 7 + round + 1, sizeof out);
    OK(archip_pwrite(volume, out, sizeof out, at, 0));
    OK(archip_pread(volume, in, sizeof in, at));
    CHECK(memcmp(in, out, sizeof in) == 0);
    if (round % 20 == 0) OK(archip_flush(volume));
    /* A message belongs to its thread. */
    char name[40];
    snprintf(name, sizeof name, "missing-of-%d", own);
    GIVES(-ENOENT, archip_remove(store, name));
    CHECK(strstr(archip_last_error(), name));
  }
  return NULL;
}

static void *reads_until_closed(void *unused) {
  (void)unused;
  char byte;
  int result;
  while ((result = archip_pread(volume, &byte, 1, 0)) == 0) {
  }
  CHECK(result == -EBADF);
  refused++;
  return NULL;
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  store = new_store(argv[1]);
  volume = new_volume(store, "shared", (uint64_t)THREADS * ROUNDS * PIECE);
  pthread_t threads[THREADS];
  for (intptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, writes_and_reads, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  for (intptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, reads_until_closed, NULL) == 0);
  OK(archip_volume_close(volume));
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  CHECK(refused == THREADS);
  OK(archip_store_close(store));
  return 0;
}
