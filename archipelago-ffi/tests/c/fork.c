/* A child can use the library if it was forked before its parent did. Later ones cannot, and disturb nothing of their parent's. */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

static void succeeds(pid_t child) {
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* What a child does that was forked before its parent used the library: everything. */
static void early_child(const char *directory) {
  archip_store store = new_store(directory);
  archip_volume volume = new_volume(store, "of-the-child", 1 << 20);
  char in[6];
  OK(archip_pwrite(volume, "child!", 6, 0, 0));
  OK(archip_pread(volume, in, 6, 0));
  OK(archip_volume_close(volume));
  OK(archip_store_close(store));
  exit(0);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  char in[6], path[4096];
  CHECK(strcmp(archip_last_error(), "") == 0 && archip_version() > 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) early_child(argv[1]);
  succeeds(child);

  archip_store store = 0;
  archip_queue queue = 0;
  archip_text text = 0;
  OK(archip_store_open(location(argv[1]), NULL, &store));
  archip_volume volume = new_volume(store, "of-the-parent", 1 << 20);
  OK(archip_queue_create(NULL, &queue));
  OK(archip_store_status(store, &text));
  OK(archip_pwrite(volume, "parent", 6, 0, 0));
  for (int generation = 0; generation < 2; generation++) {
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      size_t count = 0;
      uint64_t none = 0;
      archip_info info = ARCHIP_INIT(archip_info);
      GIVES(-EBADF, archip_pread(volume, in, 6, 0));
      GIVES(-EBADF, archip_pwrite(volume, "child!", 6, 0, 0));
      GIVES(-EBADF, archip_flush(volume));
      GIVES(-EBADF, archip_volume_close(volume));
      GIVES(-EBADF, archip_get_info(store, "of-the-parent", &info));
      GIVES(-EBADF, archip_store_close(store));
      GIVES(-EBADF, archip_queue_submit(queue, NULL, 0, &count));
      GIVES(-EBADF, archip_queue_close(queue));
      GIVES(-EBADF, archip_text_close(text));
      GIVES(-EOPNOTSUPP, archip_store_open(location(argv[1]), NULL, &none));
      GIVES(-EOPNOTSUPP, archip_queue_create(NULL, &none));
      snprintf(path, sizeof path, "file:%s/other", argv[1]);
      GIVES(-EOPNOTSUPP, archip_store_init(path, NULL));
      CHECK(none == 0 && strstr(archip_last_error(), "exec"));
      /* One ends with all that exit runs, one at once. */
      if (generation == 0) exit(0);
      _exit(0);
    }
    succeeds(child);
    OK(archip_pread(volume, in, 6, 0));
    CHECK(memcmp(in, "parent", 6) == 0);
  }
  OK(archip_snapshot(store, "of-the-parent", "of-the-parent-1"));
  OK(archip_text_close(text));
  OK(archip_queue_close(queue));
  OK(archip_volume_close(volume));
  OK(archip_store_close(store));
  return 0;
}
