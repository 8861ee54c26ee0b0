/* Whatever is wrong with a call is an error, and touches nothing. */
#include "check.h"

#include <pthread.h>

static archip_store store;
static const char *where;

static void null_pointers(void) {
  archip_volume volume = new_volume(store, "null-test", 1 << 20);
  char next[ARCHIP_NAME_SIZE], digest[ARCHIP_DIGEST_SIZE];
  archip_info info = ARCHIP_INIT(archip_info);
  archip_extent extent;
  size_t count = 7;
  archip_text text;
  GIVES(-EINVAL, archip_store_init(NULL, NULL));
  GIVES(-EINVAL, archip_store_open(NULL, NULL, &store));
  GIVES(-EINVAL, archip_store_open("file:/", NULL, NULL));
  GIVES(-EINVAL, archip_store_status(store, NULL));
  GIVES(-EINVAL, archip_list(store, NULL, NULL, 1, &count, next));
  GIVES(-EINVAL, archip_list(store, NULL, &info, 1, NULL, next));
  GIVES(-EINVAL, archip_list(store, NULL, &info, 1, &count, NULL));
  GIVES(-EINVAL, archip_list(store, NULL, &info, 0, &count, next));
  GIVES(-EINVAL, archip_get_info(store, NULL, &info));
  GIVES(-EINVAL, archip_get_info(store, "null-test", NULL));
  GIVES(-EINVAL, archip_create(store, NULL, 1, NULL));
  GIVES(-EINVAL, archip_clone(store, NULL, "name-1", NULL));
  GIVES(-EINVAL, archip_clone(store, "null-test", NULL, NULL));
  GIVES(-EINVAL, archip_clone_many(store, "null-test", NULL, 2, NULL));
  GIVES(-EINVAL, archip_clone_many(store, "null-test", (const char *[]){NULL}, 1, NULL));
  GIVES(-EINVAL, archip_clone_many(store, "null-test", (const char *[]){"name-1"}, SIZE_MAX, NULL));
  GIVES(-EINVAL, archip_snapshot(store, NULL, NULL));
  GIVES(-EINVAL, archip_snapshot_group(store, NULL, 1));
  GIVES(-EINVAL, archip_snapshot_group(store, &(archip_group_member){NULL, NULL}, 1));
  GIVES(-EINVAL, archip_snapshot_group(store, NULL, 0));
  GIVES(-EINVAL, archip_remove(store, NULL));
  GIVES(-EINVAL, archip_rename(store, NULL, "name-1"));
  GIVES(-EINVAL, archip_rename(store, "null-test", NULL));
  GIVES(-EINVAL, archip_resize(store, NULL, 1, 0));
  GIVES(-EINVAL, archip_hash(store, NULL, NULL, digest));
  GIVES(-EINVAL, archip_hash(store, "null-test", NULL, NULL));
  GIVES(-EINVAL, archip_check(store, NULL, NULL));
  GIVES(-EINVAL, archip_scrub(store, NULL, NULL));
  GIVES(-EINVAL, archip_collect(store, NULL, NULL));
  GIVES(-EINVAL, archip_send(store, NULL, NULL, 1, NULL));
  GIVES(-EINVAL, archip_receive(store, NULL, 0, NULL));
  GIVES(-EINVAL, archip_volume_open(store, NULL, 0, &volume));
  GIVES(-EINVAL, archip_volume_open(store, "null-test", 0, NULL));
  GIVES(-EINVAL, archip_volume_info(volume, NULL));
  GIVES(-EINVAL, archip_volume_size(volume, NULL));
  GIVES(-EINVAL, archip_pread(volume, NULL, 1, 0));
  GIVES(-EINVAL, archip_pwrite(volume, NULL, 1, 0, 0));
  GIVES(-EINVAL, archip_preadv(volume, NULL, 1, 0));
  GIVES(-EINVAL, archip_pwritev(volume, NULL, 1, 0, 0));
  GIVES(-EINVAL, archip_preadv(volume, &(struct iovec){NULL, 1}, 1, 0));
  GIVES(-EINVAL, archip_extents(volume, 0, 1, NULL, 1, &count));
  GIVES(-EINVAL, archip_extents(volume, 0, 1, &extent, 1, NULL));
  GIVES(-EINVAL, archip_extents(volume, 0, 1, &extent, 0, &count));
  GIVES(-EINVAL, archip_queue_create(NULL, NULL));
  OK(archip_store_status(store, &text));
  GIVES(-EINVAL, archip_text_length(text, NULL));
  GIVES(-EINVAL, archip_text_copy(text, 0, NULL, 1, &count));
  GIVES(-EINVAL, archip_text_copy(text, 0, next, 1, NULL));
  OK(archip_text_copy(text, SIZE_MAX, next, sizeof next, &count));
  CHECK(count == 0);
  OK(archip_text_close(text));
  OK(archip_volume_close(volume));
}

static void lengths_and_flags(void) {
  archip_volume volume = new_volume(store, "length-test", 1 << 20);
  char buffer[16] = "untouched";
  struct iovec overflow[] = {{buffer, SIZE_MAX}, {buffer, 2}};
  /* More than goes at once is refused before the buffer is touched; it is too short for it. */
  GIVES(-EINVAL, archip_pread(volume, buffer, SIZE_MAX, 0));
  GIVES(-EINVAL, archip_pread(volume, buffer, ARCHIP_MAX_REQUEST + 1, 0));
  GIVES(-EINVAL, archip_pwrite(volume, buffer, SIZE_MAX, 1, 0));
  GIVES(-EINVAL, archip_preadv(volume, overflow, 2, 0));
  GIVES(-EINVAL, archip_pwritev(volume, overflow, 2, 0, 0));
  GIVES(-EINVAL, archip_pwritev(volume, overflow, SIZE_MAX, 0, 0));
  GIVES(-EINVAL, archip_preadv(volume, (struct iovec *)(buffer + 1), 1, 0));
  CHECK(strcmp(buffer, "untouched") == 0);
  GIVES(-EINVAL, archip_pwrite(volume, buffer, 1, 0, 2));
  GIVES(-EINVAL, archip_pwritev(volume, overflow, 0, 0, 0x80000000));
  GIVES(-EINVAL, archip_discard(volume, 0, 4096, 1));
  GIVES(-EINVAL, archip_write_zeroes(volume, 0, 4096, 4));
  GIVES(-EINVAL, archip_resize(store, "length-test", 1 << 21, 2));
  archip_volume other = 0;
  GIVES(-EINVAL, archip_volume_open(store, "length-test", 2, &other));
  CHECK(other == 0);
  archip_work work = ARCHIP_INIT(archip_work);
  work.flags = 4;
  archip_text text = 0;
  GIVES(-EINVAL, archip_check(store, &work, &text));
  GIVES(-EINVAL, archip_scrub(store, &work, &text));
  work.flags = 0;
  work.reserved = 1;
  GIVES(-EINVAL, archip_collect(store, &work, &text));
  archip_create_options create = ARCHIP_INIT(archip_create_options);
  create.block_size = 12345;
  GIVES(-EINVAL, archip_create(store, "block-test", 1, &create));
  GIVES(-EINVAL, archip_create(store, "size-test", 0, NULL));
  GIVES(-EINVAL, archip_create(store, "size-test", UINT64_MAX, NULL));
  GIVES(-EINVAL, archip_create(store, "x", 1, NULL));
  GIVES(-EINVAL, archip_create(store, "not\xffutf8", 1, NULL));
  static char lengthy[5000];
  memset(lengthy, 'n', sizeof lengthy - 1);
  GIVES(-EINVAL, archip_create(store, lengthy, 1, NULL));
  GIVES(-EINVAL, archip_store_open("http://elsewhere", NULL, &other));
  archip_init_options init = ARCHIP_INIT(archip_init_options);
  init.mode = 07777;
  GIVES(-EINVAL, archip_store_init("file:/nowhere", &init));
  archip_store_options options = ARCHIP_INIT(archip_store_options);
  options.max_unfolded = UINT64_MAX;
  GIVES(-EINVAL, archip_store_open(where, &options, &other));
  options.max_unfolded = 0;
  options.node_cache = UINT64_MAX;
  GIVES(-EINVAL, archip_store_open(where, &options, &other));
  options.node_cache = 0;
  options.flags = 2;
  GIVES(-EINVAL, archip_store_open(where, &options, &other));
  GIVES(-EINVAL, archip_store_open(where, (archip_store_options *)&(size_t){3}, &other));
  OK(archip_volume_close(volume));
}

static void wrong_handles(void) {
  archip_volume volume = new_volume(store, "handle-test", 1 << 20);
  archip_queue queue = 0;
  archip_text text = 0;
  uint64_t size;
  char byte;
  size_t count;
  OK(archip_queue_create(NULL, &queue));
  OK(archip_store_status(store, &text));
  uint64_t none[] = {0, 1, UINT64_MAX, volume ^ 1, volume ^ (1ull << 28), volume ^ (1ull << 32), volume ^ (1ull << 63)};
  for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
    GIVES(-EBADF, archip_pread(none[i], &byte, 1, 0));
    GIVES(-EBADF, archip_volume_close(none[i]));
    GIVES(-EBADF, archip_store_close(none[i]));
    GIVES(-EBADF, archip_queue_close(none[i]));
    GIVES(-EBADF, archip_text_close(none[i]));
    GIVES(-EBADF, archip_remove(none[i], "handle-test"));
  }
  /* Of another kind. */
  uint64_t all[] = {store, volume, queue, text};
  for (size_t i = 0; i < 4; i++) {
    if (i != 0) {
      GIVES(-EBADF, archip_store_close(all[i]));
      GIVES(-EBADF, archip_create(all[i], "by-wrong-handle", 1, NULL));
    }
    if (i != 1) {
      GIVES(-EBADF, archip_volume_close(all[i]));
      GIVES(-EBADF, archip_flush(all[i]));
      GIVES(-EBADF, archip_volume_size(all[i], &size));
    }
    if (i != 2) {
      GIVES(-EBADF, archip_queue_close(all[i]));
      GIVES(-EBADF, archip_queue_submit(all[i], NULL, 0, &count));
    }
    if (i != 3) {
      GIVES(-EBADF, archip_text_close(all[i]));
      GIVES(-EBADF, archip_text_length(all[i], &count));
    }
  }
  CHECK(strstr(archip_last_error(), "queue"));
  /* Closed twice, and used after that, when others have the slot. */
  OK(archip_text_close(text));
  GIVES(-EBADF, archip_text_close(text));
  OK(archip_queue_close(queue));
  GIVES(-EBADF, archip_queue_close(queue));
  OK(archip_volume_close(volume));
  GIVES(-EBADF, archip_volume_close(volume));
  archip_volume again = 0;
  OK(archip_volume_open(store, "handle-test", 0, &again));
  CHECK(again != volume);
  GIVES(-EBADF, archip_pwrite(volume, "x", 1, 0, 0));
  GIVES(-EBADF, archip_pread(volume, &byte, 1, 0));
  GIVES(-EBADF, archip_volume_close(volume));
  OK(archip_pread(again, &byte, 1, 0));
  CHECK(byte == 0);
  /* Two handles of one volume, of which one is closed. */
  archip_volume second = 0;
  OK(archip_volume_open(store, "handle-test", 0, &second));
  OK(archip_volume_close(second));
  OK(archip_pwrite(again, "x", 1, 0, 0));
  OK(archip_volume_close(again));
}

/* Structs of other versions. */
static void sizes(void) {
  struct {
    archip_create_options known;
    uint64_t later;
  } newer = {ARCHIP_INIT(archip_create_options), 0};
  newer.known.size = sizeof newer;
  OK(archip_create(store, "of-newer-program", 4096, &newer.known));
  newer.later = 1;
  GIVES(-E2BIG, archip_create(store, "of-newer-program-2", 4096, &newer.known));
  size_t wrong[] = {0, 8, sizeof(archip_create_options) - 1, 4097, SIZE_MAX};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    archip_create_options options = {.size = wrong[i]};
    GIVES(-EINVAL, archip_create(store, "of-no-program", 4096, &options));
    archip_info info = {.size = wrong[i]};
    GIVES(-EINVAL, archip_get_info(store, "of-newer-program", &info));
  }
  struct {
    archip_info known;
    uint64_t later;
  } filled[2];
  memset(filled, 0xff, sizeof filled);
  filled[0].known.size = sizeof filled[0];
  char next[ARCHIP_NAME_SIZE];
  size_t count;
  OK(archip_list(store, NULL, &filled[0].known, 2, &count, next));
  CHECK(count == 2 && filled[0].later == 0 && filled[1].later == 0 && filled[1].known.size == sizeof filled[0]);
  CHECK(strcmp(filled[0].known.name, filled[1].known.name) < 0);
}

static void *in_another_thread(void *handle) {
  char byte = 1;
  OK(archip_pread(*(archip_volume *)handle, &byte, 1, 0));
  CHECK(byte == 0 && strcmp(archip_last_error(), "") == 0);
  OK(archip_volume_close(*(archip_volume *)handle));
  return NULL;
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  char byte;
  GIVES(-EBADF, archip_pread(12345, &byte, 1, 0));
  GIVES(-EBADF, archip_store_close(0));
  store = new_store(argv[1]);
  where = location(argv[1]);
  null_pointers();
  lengths_and_flags();
  wrong_handles();
  sizes();
  archip_volume volume = new_volume(store, "threads", 4096);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, in_another_thread, &volume) == 0);
  pthread_join(thread, NULL);
  GIVES(-EBADF, archip_volume_close(volume));
  OK(archip_store_close(store));
  GIVES(-EBADF, archip_store_close(store));
  return 0;
}
