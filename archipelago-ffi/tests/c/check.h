/* What the test programs share. Each is run with an empty directory of its own as its argument, and ends with 0 if all is as it should be. */
#ifndef CHECK_H
#define CHECK_H

#include <archipelago.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                              \
  do {                                                                                                \
    if (!(condition)) {                                                                               \
      fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, archip_last_error()); \
      exit(1);                                                                                        \
    }                                                                                                 \
  } while (0)

/* The call gives exactly this, 0 or a negative errno. */
#define GIVES(expected, call)                                                                         \
  do {                                                                                                \
    int given_ = (call);                                                                              \
    if (given_ != (expected)) {                                                                       \
      fprintf(stderr, "%s:%d: %s gives %d and not %d\n  last error: %s\n", __FILE__, __LINE__, #call, given_, \
              (expected), archip_last_error());                                                       \
      exit(1);                                                                                        \
    }                                                                                                 \
  } while (0)

#define OK(call) GIVES(0, call)

/* The location of a store in the directory of the test. */
static inline const char *location(const char *directory) {
  static char text[4096];
  snprintf(text, sizeof text, "file:%s/store", directory);
  return text;
}

/* A new store there, open. */
static inline archip_store new_store(const char *directory) {
  archip_init_options options = ARCHIP_INIT(archip_init_options);
  options.block_size = 65536;
  archip_store store = 0;
  OK(archip_store_init(location(directory), &options));
  OK(archip_store_open(location(directory), NULL, &store));
  return store;
}

/* A new volume in it, open. */
static inline archip_volume new_volume(archip_store store, const char *name, uint64_t size) {
  archip_volume volume = 0;
  OK(archip_create(store, name, size, NULL));
  OK(archip_volume_open(store, name, 0, &volume));
  return volume;
}

/* Whether the text, which is closed, has this in it. */
static inline int text_has(archip_text text, const char *part) {
  size_t length = 0, copied = 0;
  OK(archip_text_length(text, &length));
  char *content = malloc(length + 1);
  OK(archip_text_copy(text, 0, content, length, &copied));
  CHECK(copied == length);
  content[length] = 0;
  OK(archip_text_close(text));
  int found = strstr(content, part) != NULL;
  free(content);
  return found;
}

#endif
