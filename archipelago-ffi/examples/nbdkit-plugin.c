/* An nbdkit plugin: serves a volume or snapshot over NBD.
 *
 *   cc -shared -fPIC nbdkit-plugin.c -o archipelago.so $(pkg-config --cflags --libs archipelago)
 *   nbdkit ./archipelago.so store=file:/srv/store volume=disk-1
 *
 * `archipelago serve` does the same without nbdkit, and for all volumes; this is for who wants nbdkit's filters, and an example of the library
 * in a program with threads.
 */
#include <archipelago.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

enum { EXTENTS = 128 };

static const char *location, *name;
static archip_store store;

/* What nbdkit wants for what the library gives. */
static int answer(int result) {
  if (result == 0) return 0;
  nbdkit_error("%s", archip_last_error());
  nbdkit_set_error(-result);
  return -1;
}

static int plugin_config(const char *key, const char *value) {
  if (strcmp(key, "store") == 0) location = value;
  else if (strcmp(key, "volume") == 0) name = value;
  else {
    nbdkit_error("unknown parameter '%s'", key);
    return -1;
  }
  return 0;
}

static int plugin_config_complete(void) {
  if (location && name) return 0;
  nbdkit_error("both store= and volume= are needed");
  return -1;
}

/* Not before: the library does not work in a child of the process that called it first. */
static int plugin_after_fork(void) { return answer(archip_store_open(location, NULL, &store)); }

static void plugin_cleanup(void) { answer(archip_store_close(store)); }

struct connection {
  archip_volume volume;
  int writable;
};

static void *plugin_open(int readonly) {
  archip_info info = ARCHIP_INIT(archip_info);
  if (answer(archip_get_info(store, name, &info)) < 0) return NULL;
  struct connection *connection = malloc(sizeof *connection);
  if (!connection) {
    nbdkit_error("no memory");
    return NULL;
  }
  connection->writable = !readonly && !(info.flags & ARCHIP_INFO_READ_ONLY);
  uint32_t flags = connection->writable ? 0 : ARCHIP_OPEN_READ_ONLY;
  if (answer(archip_volume_open(store, name, flags, &connection->volume)) < 0) {
    free(connection);
    return NULL;
  }
  return connection;
}

static void plugin_close(void *handle) {
  struct connection *connection = handle;
  answer(archip_volume_close(connection->volume));
  free(connection);
}

static archip_volume volume(void *handle) { return ((struct connection *)handle)->volume; }

static int64_t plugin_get_size(void *handle) {
  uint64_t size;
  return answer(archip_volume_size(volume(handle), &size)) < 0 ? -1 : (int64_t)size;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum) {
  (void)handle;
  *minimum = 1;
  *preferred = 4096;
  *maximum = ARCHIP_MAX_REQUEST;
  return 0;
}

static int plugin_can_write(void *handle) { return ((struct connection *)handle)->writable; }

static int plugin_can_fua(void *handle) {
  (void)handle;
  return NBDKIT_FUA_NATIVE;
}

/* Connections share the volume: a flush on one covers what was answered on any. */
static int plugin_can_multi_conn(void *handle) {
  (void)handle;
  return 1;
}

static int plugin_pread(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags) {
  (void)flags;
  return answer(archip_pread(volume(handle), buffer, count, offset));
}

static uint32_t fua(uint32_t flags) { return flags & NBDKIT_FLAG_FUA ? ARCHIP_FUA : 0; }

static int plugin_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags) {
  return answer(archip_pwrite(volume(handle), buffer, count, offset, fua(flags)));
}

static int plugin_flush(void *handle, uint32_t flags) {
  (void)flags;
  return answer(archip_flush(volume(handle)));
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
  int result = archip_discard(volume(handle), offset, count, 0);
  if (result == 0 && fua(flags)) result = archip_flush(volume(handle));
  return answer(result);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
  uint32_t allocate = flags & NBDKIT_FLAG_MAY_TRIM ? 0 : ARCHIP_ALLOCATE;
  return answer(archip_write_zeroes(volume(handle), offset, count, fua(flags) | allocate));
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents) {
  uint64_t end = offset + count;
  while (offset < end) {
    archip_extent found[EXTENTS];
    size_t number = 0;
    if (answer(archip_extents(volume(handle), offset, end - offset, found, EXTENTS, &number)) < 0) return -1;
    for (size_t i = 0; i < number; i++) {
      uint32_t type = found[i].flags & ARCHIP_EXTENT_ZERO ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
      if (nbdkit_add_extent(extents, found[i].offset, found[i].length, type) < 0) return -1;
      offset = found[i].offset + found[i].length;
    }
    if (number == 0 || flags & NBDKIT_FLAG_REQ_ONE) break;
  }
  return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "archipelago",
    .longname = "Archipelago volumes",
    .config_help = "store=file:/PATH    the store\nvolume=NAME         a volume, or a snapshot",
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .after_fork = plugin_after_fork,
    .cleanup = plugin_cleanup,
    .open = plugin_open,
    .close = plugin_close,
    .get_size = plugin_get_size,
    .block_size = plugin_block_size,
    .can_write = plugin_can_write,
    .can_fua = plugin_can_fua,
    .can_multi_conn = plugin_can_multi_conn,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .extents = plugin_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
