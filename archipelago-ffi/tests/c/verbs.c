/* Every verb of stores and volumes does what it says. */
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

static void listing(archip_store store) {
  char name[32];
  for (int i = 0; i < 5; i++) {
    snprintf(name, sizeof name, "listed-%d", i);
    OK(archip_create(store, name, 1 << 20, NULL));
  }
  archip_info page[2] = {ARCHIP_INIT(archip_info)};
  char next[ARCHIP_NAME_SIZE] = "";
  size_t count = 0, all = 0;
  archip_list_options options = ARCHIP_INIT(archip_list_options);
  options.prefix = "listed-";
  do {
    options.after = all ? next : NULL;
    OK(archip_list(store, &options, page, 2, &count, next));
    for (size_t i = 0; i < count; i++, all++) {
      snprintf(name, sizeof name, "listed-%d", (int)all);
      CHECK(strcmp(page[i].name, name) == 0 && page[i].volume_size == 1 << 20);
      CHECK(page[i].size == sizeof(archip_info) && page[i].kind == ARCHIP_KIND_VOLUME);
    }
  } while (next[0]);
  CHECK(all == 5);
  options.prefix = "nothing-";
  options.after = NULL;
  OK(archip_list(store, &options, page, 2, &count, next));
  CHECK(count == 0 && next[0] == 0);
}

static void reading_and_writing(archip_store store) {
  archip_volume volume = new_volume(store, "read-write", 1 << 20);
  char out[10000], in[10000];
  memset(out, 'x', sizeof out);
  OK(archip_pwrite(volume, out, sizeof out, 4095, 0));
  OK(archip_pread(volume, in, sizeof in, 4095));
  CHECK(memcmp(in, out, sizeof in) == 0);

  char a[3], b[5000], c[1];
  struct iovec parts[] = {{a, sizeof a}, {b, sizeof b}, {NULL, 0}, {c, sizeof c}};
  memset(a, 'a', sizeof a);
  memset(b, 'b', sizeof b);
  c[0] = 'c';
  OK(archip_pwritev(volume, parts, 4, 100000, ARCHIP_FUA));
  OK(archip_pread(volume, in, 5004, 100000));
  CHECK(in[2] == 'a' && in[3] == 'b' && in[5002] == 'b' && in[5003] == 'c');
  memset(b, 0, sizeof b);
  OK(archip_preadv(volume, parts, 4, 100001));
  CHECK(a[0] == 'a' && a[2] == 'b' && b[4998] == 'b' && b[4999] == 'c' && c[0] == 0);

  /* As many parts as go. */
  static struct iovec many[ARCHIP_MAX_PARTS];
  for (size_t i = 0; i < ARCHIP_MAX_PARTS; i++) many[i] = (struct iovec){out + i, 1};
  OK(archip_pwritev(volume, many, ARCHIP_MAX_PARTS, 200000, 0));
  GIVES(-EINVAL, archip_pwritev(volume, many, ARCHIP_MAX_PARTS + 1, 200000, 0));
  OK(archip_flush(volume));

  OK(archip_write_zeroes(volume, 100000, 4, 0));
  OK(archip_pread(volume, in, 5, 100000));
  CHECK(!in[0] && !in[3] && in[4] == 'b');
  OK(archip_discard(volume, 0, 8192, 0));
  OK(archip_pread(volume, in, 4096, 4096));
  CHECK(in[0] == 0 && in[4095] == 0);

  /* The extents cover the volume without gaps, however few are asked for at once. */
  uint64_t at = 0;
  int data = 0;
  while (at < 1 << 20) {
    archip_extent extent;
    size_t count = 0;
    OK(archip_extents(volume, at, (1 << 20) - at, &extent, 1, &count));
    CHECK(count == 1 && extent.offset == at && extent.length > 0);
    data |= !(extent.flags & ARCHIP_EXTENT_ZERO) && at <= 100004 && at + extent.length > 100004;
    at += extent.length;
  }
  CHECK(data && at == 1 << 20);

  /* Nothing past the end, and requests of no bytes. */
  GIVES(-EINVAL, archip_pread(volume, in, 2, (1 << 20) - 1));
  GIVES(-EINVAL, archip_pread(volume, in, 1, UINT64_MAX));
  GIVES(-EINVAL, archip_discard(volume, UINT64_MAX, UINT64_MAX, 0));
  OK(archip_pread(volume, NULL, 0, 0));
  OK(archip_pwrite(volume, NULL, 0, 0, 0));
  OK(archip_preadv(volume, NULL, 0, 0));
  OK(archip_volume_close(volume));
}

static void snapshots_and_clones(archip_store store) {
  archip_volume volume = new_volume(store, "origin", 1 << 20), clone = 0;
  OK(archip_pwrite(volume, "before", 6, 0, 0));
  OK(archip_snapshot(store, "origin", "origin-1"));
  OK(archip_pwrite(volume, "after!", 6, 0, 0));
  archip_clone_options larger = ARCHIP_INIT(archip_clone_options);
  larger.volume_size = 2 << 20;
  OK(archip_clone(store, "origin-1", "clone-larger", &larger));
  const char *names[] = {"clone-a", "clone-b"};
  OK(archip_clone_many(store, "origin-1", names, 2, NULL));
  char in[6];
  OK(archip_volume_open(store, "clone-b", 0, &clone));
  OK(archip_pread(clone, in, 6, 0));
  CHECK(memcmp(in, "before", 6) == 0);
  GIVES(-EPERM, archip_clone(store, "origin", "clone-c", NULL));
  GIVES(-EEXIST, archip_clone(store, "origin-1", "clone-a", NULL));

  archip_info info = ARCHIP_INIT(archip_info);
  OK(archip_get_info(store, "clone-larger", &info));
  CHECK(info.volume_size == 2 << 20 && strcmp(info.parent, "origin-1") == 0);
  OK(archip_volume_info(clone, &info));
  CHECK((info.flags & ARCHIP_INFO_OPEN) && info.owner_pid == (uint32_t)getpid() && info.owner_command[0]);
  OK(archip_get_info(store, "origin-1", &info));
  CHECK(info.kind == ARCHIP_KIND_SNAPSHOT && (info.flags & ARCHIP_INFO_READ_ONLY) && strlen(info.id) == 16);

  archip_group_member members[] = {{"origin", "group-origin"}, {"clone-b", "group-clone"}};
  OK(archip_snapshot_group(store, members, 2));
  OK(archip_get_info(store, "group-clone", &info));

  archip_volume snapshot = 0;
  CHECK(archip_volume_open(store, "origin-1", 0, &snapshot) < 0);
  OK(archip_volume_open(store, "origin-1", ARCHIP_OPEN_READ_ONLY, &snapshot));
  OK(archip_pread(snapshot, in, 6, 0));
  CHECK(memcmp(in, "before", 6) == 0);
  GIVES(-EROFS, archip_pwrite(snapshot, in, 6, 0, 0));
  OK(archip_volume_close(snapshot));

  uint64_t size = 0;
  OK(archip_resize(store, "origin", 3 << 20, 0));
  OK(archip_volume_size(volume, &size));
  CHECK(size == 3 << 20);
  GIVES(-EINVAL, archip_resize(store, "origin", 1 << 20, 0));
  OK(archip_resize(store, "origin", 1 << 20, ARCHIP_RESIZE_SHRINK));
  OK(archip_rename(store, "origin", "renamed"));
  GIVES(-EBUSY, archip_remove(store, "renamed"));
  OK(archip_volume_close(volume));
  OK(archip_volume_close(clone));
  OK(archip_remove(store, "renamed"));
  GIVES(-ENOENT, archip_remove(store, "renamed"));
  CHECK(strstr(archip_last_error(), "renamed"));
}

static void work(archip_store store, const char *directory) {
  archip_volume volume = new_volume(store, "worked-on", 1 << 20);
  char data[70000];
  memset(data, 'w', sizeof data);
  OK(archip_pwrite(volume, data, sizeof data, 0, 0));
  OK(archip_compact(volume, 0, NULL));
  OK(archip_snapshot(store, "worked-on", "worked-on-1"));
  OK(archip_pwrite(volume, "difference", 10, 500000, 0));
  OK(archip_snapshot(store, "worked-on", "worked-on-2"));
  OK(archip_volume_close(volume));
  char digest[ARCHIP_DIGEST_SIZE];
  OK(archip_hash(store, "worked-on-1", NULL, digest));
  CHECK(strlen(digest) == 64 && strspn(digest, "0123456789abcdef") == 64);
  GIVES(-EPERM, archip_hash(store, "worked-on", NULL, digest));

  char path[4096];
  snprintf(path, sizeof path, "%s/stream", directory);
  int file = open(path, O_RDWR | O_CREAT, 0600);
  CHECK(file >= 0);
  OK(archip_send(store, "worked-on-1", NULL, file, NULL));
  off_t whole = lseek(file, 0, SEEK_END);
  OK(archip_send(store, "worked-on-2", "worked-on-1", file, NULL));
  CHECK(lseek(file, 0, SEEK_END) - whole < whole);
  lseek(file, 0, SEEK_SET);
  char other[4096];
  snprintf(other, sizeof other, "file:%s/other", directory);
  archip_store second = 0;
  OK(archip_store_init(other, NULL));
  OK(archip_store_open(other, NULL, &second));
  OK(archip_receive(second, "received-1", file, NULL));
  CHECK(lseek(file, 0, SEEK_CUR) == whole);
  OK(archip_receive(second, "received-2", file, NULL));
  close(file);
  GIVES(-EINVAL, archip_receive(second, "received-3", file, NULL));
  GIVES(-EINVAL, archip_send(second, "received-1", NULL, -1, NULL));
  char in[10];
  OK(archip_volume_open(second, "received-2", ARCHIP_OPEN_READ_ONLY, &volume));
  OK(archip_pread(volume, in, 10, 500000));
  CHECK(memcmp(in, "difference", 10) == 0);
  OK(archip_volume_close(volume));
  OK(archip_store_close(second));

  archip_text report = 0;
  archip_work options = ARCHIP_INIT(archip_work);
  options.flags = ARCHIP_CHECK_DATA;
  OK(archip_check(store, &options, &report));
  CHECK(text_has(report, "\"findings\":[]"));
  options.flags = ARCHIP_COLLECT_DRY_RUN;
  OK(archip_collect(store, &options, &report));
  CHECK(text_has(report, "\"dry_run\":true"));
  OK(archip_collect(store, NULL, &report));
  CHECK(text_has(report, "\"dry_run\":false"));
  OK(archip_scrub(store, NULL, &report));
  CHECK(text_has(report, "\"altered\":0"));
  OK(archip_store_status(store, &report));
  CHECK(text_has(report, "\"uuid\""));
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  CHECK(archip_version() >= ARCHIP_VERSION && archip_release()[0]);
  CHECK(strcmp(archip_last_error(), "") == 0);
  GIVES(-ENOENT, archip_store_open(location(argv[1]), NULL, &(archip_store){0}));
  archip_store store = new_store(argv[1]);
  GIVES(-EEXIST, archip_store_init(location(argv[1]), NULL));
  listing(store);
  reading_and_writing(store);
  snapshots_and_clones(store);
  work(store, argv[1]);

  /* A volume outlives its store, and what was written is there after all. */
  archip_volume volume = new_volume(store, "survivor", 1 << 20);
  OK(archip_store_close(store));
  OK(archip_pwrite(volume, "still here", 10, 5, 0));
  OK(archip_volume_close(volume));
  char in[10];
  OK(archip_store_open(location(argv[1]), NULL, &store));
  OK(archip_volume_open(store, "survivor", ARCHIP_OPEN_READ_ONLY, &volume));
  OK(archip_pread(volume, in, 10, 5));
  CHECK(memcmp(in, "still here", 10) == 0);
  OK(archip_volume_close(volume));
  OK(archip_store_close(store));
  return 0;
}
