/* Long work tells how far it is, and can be ended from its callback. */
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

struct watch {
  int calls;
  int end_at;
  uint64_t done;
  archip_store store;
  archip_volume volume;
};

static int told(void *user_data, const archip_progress *progress) {
  struct watch *watch = user_data;
  watch->calls++;
  watch->done = progress->done;
  CHECK(progress->size >= sizeof *progress && progress->reserved == 0);
  CHECK(progress->total == 0 || progress->done <= progress->total);
  /* The library may be called, but what the call is using stays. */
  if (watch->store) {
    archip_info info = ARCHIP_INIT(archip_info);
    OK(archip_get_info(watch->store, "watched-1", &info));
    GIVES(-EDEADLK, archip_store_close(watch->store));
  }
  if (watch->volume) GIVES(-EDEADLK, archip_volume_close(watch->volume));
  return watch->end_at != 0 && watch->calls >= watch->end_at;
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  archip_store store = new_store(argv[1]);
  archip_volume volume = new_volume(store, "watched", 16 << 20);
  static char data[1 << 20];
  for (int i = 0; i < 16; i++) {
    memset(data, 'a' + i, sizeof data);
    OK(archip_pwrite(volume, data, sizeof data, (uint64_t)i << 20, 0));
  }
  OK(archip_snapshot(store, "watched", "watched-1"));

  char digest[ARCHIP_DIGEST_SIZE] = "untouched", path[4096];
  archip_text report = 0;
  snprintf(path, sizeof path, "%s/stream", argv[1]);
  int file = open(path, O_RDWR | O_CREAT, 0600);
  for (int end = 1; end >= 0; end--) {
    struct watch watch = {.end_at = end, .store = store};
    archip_work work = ARCHIP_INIT(archip_work);
    int expected = end ? -ECANCELED : 0;
    work.progress = told;
    work.user_data = &watch;
#define WATCHED(call)                           \
  do {                                          \
    watch.calls = 0;                            \
    GIVES(expected, call);                      \
    CHECK(watch.calls > 0 && (!end || watch.calls == 1)); \
    if (!end && report) OK(archip_text_close(report));    \
    CHECK(!end || report == 0);                 \
    report = 0;                                 \
  } while (0)
    WATCHED(archip_hash(store, "watched-1", &work, digest));
    CHECK(end ? strcmp(digest, "untouched") == 0 : strlen(digest) == 64);
    WATCHED(archip_check(store, &work, &report));
    work.flags = ARCHIP_CHECK_DATA;
    WATCHED(archip_check(store, &work, &report));
    work.flags = 0;
    WATCHED(archip_scrub(store, &work, &report));
    WATCHED(archip_collect(store, &work, &report));
    CHECK(lseek(file, 0, SEEK_SET) == 0);
    WATCHED(archip_send(store, "watched-1", NULL, file, &work));
    /* Some journal writes, so that there are pieces to gather. */
    for (int i = 0; i < 200; i++) OK(archip_pwrite(volume, "piece", 5, (uint64_t)i * 8192, 0));
    watch.store = 0;
    watch.volume = volume;
    WATCHED(archip_compact(volume, 0, &work));
  }
  CHECK(lseek(file, 0, SEEK_SET) == 0);
  struct watch watch = {.end_at = 2, .store = store};
  archip_work work = ARCHIP_INIT(archip_work);
  work.progress = told;
  work.user_data = &watch;
  GIVES(-ECANCELED, archip_receive(store, "watched-2", file, &work));
  CHECK(watch.calls == 2);
  OK(archip_remove(store, "watched-2.receiving"));
  CHECK(lseek(file, 0, SEEK_SET) == 0);
  watch.end_at = 0;
  OK(archip_receive(store, "watched-2", file, &work));
  CHECK(watch.done == 16 << 20);
  close(file);
  OK(archip_volume_close(volume));
  OK(archip_store_close(store));
  return 0;
}
