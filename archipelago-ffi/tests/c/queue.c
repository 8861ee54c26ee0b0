/* Queues: every operation completes once, nothing is lost, and the descriptor says what is so. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

enum { DEPTH = 16, PIECE = 4096, PIECES = 200 };

static archip_store store;

static int readable(int descriptor, int milliseconds) {
  struct pollfd poller = {.fd = descriptor, .events = POLLIN};
  int count = poll(&poller, 1, milliseconds);
  CHECK(count >= 0);
  return count;
}

static archip_queue make(uint32_t flags, uint32_t depth) {
  archip_queue_options options = ARCHIP_INIT(archip_queue_options);
  options.depth = depth;
  options.flags = flags;
  archip_queue queue = 0;
  OK(archip_queue_create(&options, &queue));
  return queue;
}

/* Writes and reads all pieces of two volumes through one queue, driven by its descriptor. */
static void all_pieces(uint32_t flags, const char *first, const char *second) {
  archip_volume volumes[] = {new_volume(store, first, PIECES * PIECE), new_volume(store, second, PIECES * PIECE)};
  archip_queue queue = make(flags, DEPTH);
  static unsigned char buffers[2 * PIECES][PIECE];
  static struct iovec halves[2 * PIECES][2];
  int descriptor = -1;
  OK(archip_queue_eventfd(queue, &descriptor));
  for (int reading = 0; reading < 2; reading++) {
    if (reading) {
      archip_request flushes[2] = {{.volume = volumes[0], .operation = ARCHIP_FLUSH},
                                   {.volume = volumes[1], .operation = ARCHIP_FLUSH}};
      archip_completion ends[2];
      size_t count = 0;
      OK(archip_queue_submit(queue, flushes, 2, &count));
      OK(archip_queue_wait(queue, ends, 2, 2, -1, &count));
      CHECK(count == 2 && ends[0].result == 0 && ends[1].result == 0);
    }
    static int done[2 * PIECES];
    memset(done, 0, sizeof done);
    int submitted = 0, completed = 0;
    while (completed < 2 * PIECES) {
      archip_request batch[10];
      int count = 0;
      for (; count < 10 && submitted + count < 2 * PIECES; count++) {
        int piece = submitted + count;
        if (!reading) memset(buffers[piece], piece % 251 + 1, PIECE);
        if (reading) memset(buffers[piece], 0, PIECE);
        batch[count] = (archip_request){.volume = volumes[piece % 2],
                                        .operation = reading ? ARCHIP_READ : ARCHIP_WRITE,
                                        .offset = (uint64_t)(piece / 2) * PIECE,
                                        .user_data = (uint64_t)piece};
        if (piece % 3 == 0) {
          halves[piece][0] = (struct iovec){buffers[piece], 1000};
          halves[piece][1] = (struct iovec){buffers[piece] + 1000, PIECE - 1000};
          batch[count].iov = halves[piece];
          batch[count].iov_count = 2;
        } else {
          batch[count].buffer = buffers[piece];
          batch[count].length = PIECE;
        }
      }
      size_t taken = 0, collected = 0;
      int result = archip_queue_submit(queue, batch, (size_t)count, &taken);
      CHECK(result == (taken < (size_t)count ? -EAGAIN : 0));
      submitted += (int)taken;
      CHECK(submitted - completed <= DEPTH);
      CHECK(readable(descriptor, 60000) == 1);
      archip_completion ends[DEPTH];
      OK(archip_queue_wait(queue, ends, DEPTH, 0, 0, &collected));
      CHECK(collected > 0);
      for (size_t i = 0; i < collected; i++, completed++) {
        CHECK(ends[i].result == 0 && done[ends[i].user_data]++ == 0);
        unsigned char expected = (unsigned char)(ends[i].user_data % 251 + 1);
        CHECK(buffers[ends[i].user_data][0] == expected && buffers[ends[i].user_data][PIECE - 1] == expected);
      }
    }
    CHECK(!readable(descriptor, 0));
  }
  OK(archip_queue_close(queue));
  OK(archip_volume_close(volumes[0]));
  OK(archip_volume_close(volumes[1]));
}

static void wrong_requests(uint32_t flags, const char *name) {
  archip_volume volume = new_volume(store, name, 1 << 20);
  archip_queue queue = make(flags, 4);
  char buffer[16];
  size_t count = 9;
  struct iovec part = {buffer, SIZE_MAX};
  archip_request wrong[] = {
      {.volume = volume, .operation = 0},
      {.volume = volume, .operation = 99},
      {.volume = volume, .operation = ARCHIP_READ, .length = 1},
      {.volume = volume, .operation = ARCHIP_READ, .buffer = buffer, .length = UINT64_MAX},
      {.volume = volume, .operation = ARCHIP_READ, .buffer = buffer, .length = 1, .flags = ARCHIP_FUA},
      {.volume = volume, .operation = ARCHIP_WRITE, .buffer = buffer, .length = 1, .flags = 8},
      {.volume = volume, .operation = ARCHIP_WRITE, .iov = &part, .iov_count = 1},
      {.volume = volume, .operation = ARCHIP_WRITE, .iov = NULL, .iov_count = 1},
      {.volume = volume, .operation = ARCHIP_WRITE, .iov = &part, .iov_count = SIZE_MAX},
      {.volume = volume, .operation = ARCHIP_WRITE, .iov = &part, .iov_count = 1, .buffer = buffer},
      {.volume = volume, .operation = ARCHIP_FLUSH, .offset = 1},
      {.volume = volume, .operation = ARCHIP_DISCARD, .buffer = buffer},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    GIVES(-EINVAL, archip_queue_submit(queue, &wrong[i], 1, &count));
    CHECK(count == 0);
  }
  archip_request batch[] = {{.volume = volume, .operation = ARCHIP_READ, .buffer = buffer, .length = 16, .offset = 1 << 20},
                            {.volume = 77, .operation = ARCHIP_FLUSH},
                            {.volume = volume, .operation = ARCHIP_FLUSH}};
  GIVES(-EBADF, archip_queue_submit(queue, batch, 3, &count));
  CHECK(count == 1);
  archip_completion ends[4];
  OK(archip_queue_wait(queue, ends, 4, 1, -1, &count));
  CHECK(count == 1 && ends[0].result == -EINVAL);
  GIVES(-EINVAL, archip_queue_wait(queue, ends, 1, 2, 0, &count));
  GIVES(-EINVAL, archip_queue_wait(queue, ends, 100, 5, 0, &count));
  GIVES(-EINVAL, archip_queue_wait(queue, NULL, 1, 0, 0, &count));
  GIVES(-EINVAL, archip_queue_submit(queue, NULL, 1, &count));
  GIVES(-EINVAL, archip_queue_submit(queue, batch, 1, NULL));
  GIVES(-EINVAL, archip_queue_eventfd(queue, NULL));
  OK(archip_queue_wait(queue, ends, 1, 1, 1000000, &count));
  CHECK(count == 0);

  archip_request zero = {.volume = volume, .operation = ARCHIP_WRITE_ZEROES, .length = 8192, .flags = ARCHIP_ALLOCATE | ARCHIP_FUA};
  archip_request discard = {.volume = volume, .operation = ARCHIP_DISCARD, .length = 8192};
  OK(archip_queue_submit(queue, &zero, 1, &count));
  OK(archip_queue_submit(queue, &discard, 1, &count));
  OK(archip_queue_wait(queue, ends, 4, 2, -1, &count));
  CHECK(count == 2 && ends[0].result == 0 && ends[1].result == 0);

  archip_queue_options options = ARCHIP_INIT(archip_queue_options);
  archip_queue none = 0;
  options.depth = 65537;
  GIVES(-EINVAL, archip_queue_create(&options, &none));
  options.depth = UINT32_MAX;
  GIVES(-EINVAL, archip_queue_create(&options, &none));
  options.depth = 1;
  options.threads = 65;
  GIVES(-EINVAL, archip_queue_create(&options, &none));
  options.threads = 1;
  options.flags = ARCHIP_QUEUE_INLINE;
  GIVES(-EINVAL, archip_queue_create(&options, &none));
  CHECK(none == 0);
  OK(archip_queue_close(queue));
  OK(archip_volume_close(volume));
}

static void *waits(void *queue) {
  archip_completion end;
  size_t count;
  int result = archip_queue_wait(*(archip_queue *)queue, &end, 1, 1, -1, &count);
  CHECK(result == -ECANCELED || result == -EBADF);
  return NULL;
}

/* A volume, and a queue, that are closed with operations in flight: the operations end first. */
static void closing(void) {
  archip_volume volume = new_volume(store, "closing", PIECES * PIECE);
  archip_queue queue = make(0, PIECES);
  static char buffers[PIECES][PIECE];
  memset(buffers, 'c', sizeof buffers);
  size_t count = 0;
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < PIECES / 2; i++) {
      int piece = round * PIECES / 2 + i;
      archip_request request = {.volume = volume, .operation = ARCHIP_WRITE, .buffer = buffers[piece], .length = PIECE,
                                .offset = (uint64_t)piece * PIECE};
      OK(archip_queue_submit(queue, &request, 1, &count));
    }
    if (round == 0) {
      OK(archip_volume_close(volume));
      OK(archip_volume_open(store, "closing", 0, &volume));
    }
  }
  OK(archip_queue_close(queue));
  memset(buffers, 'd', sizeof buffers); /* They are the caller's again. */
  char in[PIECE];
  for (int piece = 0; piece < PIECES; piece++) {
    OK(archip_pread(volume, in, PIECE, (uint64_t)piece * PIECE));
    CHECK(in[0] == 'c' && in[PIECE - 1] == 'c');
  }
  OK(archip_volume_close(volume));

  queue = make(0, 1);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, waits, &queue) == 0);
  usleep(20000);
  OK(archip_queue_close(queue));
  pthread_join(thread, NULL);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  store = new_store(argv[1]);
  all_pieces(0, "first-1", "second-1");
  all_pieces(ARCHIP_QUEUE_INLINE, "first-2", "second-2");
  wrong_requests(0, "wrong-1");
  wrong_requests(ARCHIP_QUEUE_INLINE, "wrong-2");
  closing();
  OK(archip_store_close(store));
  return 0;
}
