/* What a program built against libarchipelago-dev does first: `test-deb` compiles and runs it. */
#include <archipelago.h>
#include <stdio.h>
#include <string.h>

static int failed(const char *what, int result) {
  if (result >= 0) return 0;
  fprintf(stderr, "%s: %s\n", what, archip_last_error());
  return 1;
}

int main(int argc, char **argv) {
  archip_store store;
  archip_volume volume;
  char in[512], out[512];
  if (argc != 2) return 2;
  memset(out, 'c', sizeof out);
  if (failed("open the store", archip_store_open(argv[1], NULL, &store))) return 1;
  if (failed("create", archip_create(store, "made-by-c", 1 << 20, NULL))) return 1;
  if (failed("open", archip_volume_open(store, "made-by-c", 0, &volume))) return 1;
  if (failed("write", archip_pwrite(volume, out, sizeof out, 4096, ARCHIP_FUA))) return 1;
  if (failed("read", archip_pread(volume, in, sizeof in, 4096))) return 1;
  if (failed("close", archip_volume_close(volume)) || failed("close the store", archip_store_close(store))) return 1;
  puts(memcmp(in, out, sizeof in) == 0 ? "read what was written" : "read something else");
  return memcmp(in, out, sizeof in) != 0;
}
