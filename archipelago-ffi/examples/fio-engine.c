/* An I/O engine for fio: benchmarks and verifies volumes through the library, in fio's own process.
 *
 *   ./fio-headers fio-source
 *   cc -shared -fPIC -isystem fio-source fio-engine.c -o archipelago-fio.so $(pkg-config --cflags --libs archipelago)
 *   fio --ioengine=external:./archipelago-fio.so --store=file:/srv/store --filename=disk-1 --name=job --rw=randread --bs=4k --iodepth=32
 *
 * `filename` is the name of a volume, or of a snapshot for jobs that only read. Jobs are threads, for the library does not work in a child of
 * the process that called it first. At a depth of 1 each request is a call; deeper ones go through a completion queue, which with `threads=0`
 * carries requests out in the thread of the job.
 */
#define _GNU_SOURCE
#include <config-host.h>

#include <fio.h>
#include <optgroup.h>

#include <archipelago.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct engine_options {
  void *pad; /* fio's own */
  char *store;
  unsigned int threads;
};

static struct fio_option options[] = {
    {.name = "store",
     .lname = "Store",
     .type = FIO_OPT_STR_STORE,
     .off1 = offsetof(struct engine_options, store),
     .help = "Store in which the volumes are, as file:/PATH",
     .category = FIO_OPT_C_ENGINE,
     .group = FIO_OPT_G_INVALID},
    {.name = "threads",
     .lname = "Threads of the queue",
     .type = FIO_OPT_INT,
     .off1 = offsetof(struct engine_options, threads),
     .def = "0",
     .maxval = 64,
     .help = "Threads that carry out the requests of a job; 0: the job's own",
     .category = FIO_OPT_C_ENGINE,
     .group = FIO_OPT_G_INVALID},
    {.name = NULL},
};

/* A volume that is open once for all jobs, since one of them at a time may open it for writing. */
struct disk {
  struct disk *next;
  char *location, *name;
  archip_volume volume;
  int writable;
  unsigned int users;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct disk *disks;

/* What a job works with. */
struct job {
  archip_queue queue;
  struct archip_request *requests; /* submitted with the next commit */
  struct archip_completion *completions;
  unsigned int queued, depth;
};

static int failed(struct thread_data *td, int result, const char *what) {
  log_err("archipelago: %s: %s\n", what, archip_last_error());
  td_verror(td, -result, what);
  return 1;
}

static int with_store(struct thread_data *td, int (*work)(struct thread_data *, archip_store, void *), void *argument) {
  const struct engine_options *wanted = td->eo;
  archip_store store;
  if (!wanted->store) {
    log_err("archipelago: the option store=file:/PATH is needed\n");
    td_verror(td, EINVAL, "store");
    return 1;
  }
  int result = archip_store_open(wanted->store, NULL, &store);
  if (result) return failed(td, result, wanted->store);
  int outcome = work(td, store, argument);
  archip_store_close(store);
  return outcome;
}

static int find_sizes(struct thread_data *td, archip_store store, void *unused) {
  struct fio_file *file;
  unsigned int number;
  (void)unused;
  for_each_file(td, file, number) {
    archip_info info = ARCHIP_INIT(archip_info);
    int result = archip_get_info(store, file->file_name, &info);
    if (result) return failed(td, result, file->file_name);
    file->filetype = FIO_TYPE_BLOCK;
    file->real_file_size = info.volume_size;
    fio_file_set_size_known(file);
  }
  return 0;
}

static int engine_setup(struct thread_data *td) {
  if (!td->o.use_thread) td->o.use_thread = 1;
  return with_store(td, find_sizes, NULL);
}

static int open_disk(struct thread_data *td, archip_store store, void *argument) {
  struct disk *disk = argument;
  uint32_t flags = disk->writable ? 0 : ARCHIP_OPEN_READ_ONLY;
  int result = archip_volume_open(store, disk->name, flags, &disk->volume);
  return result ? failed(td, result, disk->name) : 0;
}

static void free_disk(struct disk *disk) {
  free(disk->location);
  free(disk->name);
  free(disk);
}

static int engine_open_file(struct thread_data *td, struct fio_file *file) {
  const struct engine_options *wanted = td->eo;
  struct disk *disk;
  int outcome = 0;
  pthread_mutex_lock(&lock);
  for (disk = disks; disk; disk = disk->next)
    if (strcmp(disk->name, file->file_name) == 0 && strcmp(disk->location, wanted->store) == 0) break;
  if (disk && td_write(td) && !disk->writable) {
    log_err("archipelago: %s: a job that only reads has it open; let jobs of one run all write, or all read\n", disk->name);
    td_verror(td, EBUSY, "open");
    outcome = 1;
  } else if (disk) {
    disk->users++;
  } else if (!(disk = calloc(1, sizeof *disk)) || !(disk->location = strdup(wanted->store)) ||
             !(disk->name = strdup(file->file_name))) {
    td_verror(td, ENOMEM, "open");
    if (disk) free_disk(disk);
    outcome = 1;
  } else {
    /* A volume can be opened for writing by a job that reads; a snapshot by none that writes. */
    disk->writable = td_write(td) || td_trim(td);
    disk->users = 1;
    outcome = with_store(td, open_disk, disk);
    if (outcome) {
      free_disk(disk);
    } else {
      disk->next = disks;
      disks = disk;
    }
  }
  if (!outcome) FILE_SET_ENG_DATA(file, disk);
  pthread_mutex_unlock(&lock);
  return outcome;
}

static int engine_close_file(struct thread_data *td, struct fio_file *file) {
  struct disk *disk = FILE_ENG_DATA(file), **link;
  int outcome = 0;
  if (!disk) return 0;
  FILE_SET_ENG_DATA(file, NULL);
  pthread_mutex_lock(&lock);
  if (--disk->users == 0) {
    for (link = &disks; *link != disk; link = &(*link)->next) {
    }
    *link = disk->next;
    int result = archip_volume_close(disk->volume);
    if (result) outcome = failed(td, result, disk->name);
    free_disk(disk);
  }
  pthread_mutex_unlock(&lock);
  return outcome;
}

static int engine_init(struct thread_data *td) {
  const struct engine_options *wanted = td->eo;
  struct job *job = calloc(1, sizeof *job);
  if (!job) return 1;
  job->depth = td->o.iodepth;
  td->io_ops_data = job;
  if (job->depth == 1) return 0;
  job->requests = calloc(job->depth, sizeof *job->requests);
  job->completions = calloc(job->depth, sizeof *job->completions);
  if (!job->requests || !job->completions) {
    td_verror(td, ENOMEM, "init");
    return 1;
  }
  archip_queue_options queue = ARCHIP_INIT(archip_queue_options);
  queue.depth = job->depth;
  queue.threads = wanted->threads;
  queue.flags = wanted->threads ? 0 : ARCHIP_QUEUE_INLINE;
  int result = archip_queue_create(&queue, &job->queue);
  return result ? failed(td, result, "queue") : 0;
}

static void engine_cleanup(struct thread_data *td) {
  struct job *job = td->io_ops_data;
  if (!job) return;
  if (job->queue) archip_queue_close(job->queue);
  free(job->requests);
  free(job->completions);
  free(job);
  td->io_ops_data = NULL;
}

static uint32_t operation(enum fio_ddir ddir) {
  switch (ddir) {
    case DDIR_READ: return ARCHIP_READ;
    case DDIR_WRITE: return ARCHIP_WRITE;
    case DDIR_TRIM: return ARCHIP_DISCARD;
    default: return ARCHIP_FLUSH;
  }
}

static enum fio_q_status at_once(const struct disk *disk, struct io_u *io_u) {
  int result = 0;
  switch (io_u->ddir) {
    case DDIR_READ: result = archip_pread(disk->volume, io_u->xfer_buf, io_u->xfer_buflen, io_u->offset); break;
    case DDIR_WRITE: result = archip_pwrite(disk->volume, io_u->xfer_buf, io_u->xfer_buflen, io_u->offset, 0); break;
    case DDIR_TRIM: result = archip_discard(disk->volume, io_u->offset, io_u->xfer_buflen, 0); break;
    default: result = disk->writable ? archip_flush(disk->volume) : 0; break;
  }
  io_u->error = -result;
  return FIO_Q_COMPLETED;
}

static enum fio_q_status engine_queue(struct thread_data *td, struct io_u *io_u) {
  struct job *job = td->io_ops_data;
  const struct disk *disk = FILE_ENG_DATA(io_u->file);
  fio_ro_check(td, io_u);
  if (job->depth == 1) return at_once(disk, io_u);
  if (job->queued == job->depth) return FIO_Q_BUSY;
  struct archip_request *request = &job->requests[job->queued++];
  int moves = io_u->ddir == DDIR_READ || io_u->ddir == DDIR_WRITE;
  *request = (struct archip_request){
      .volume = disk->volume,
      .operation = operation(io_u->ddir),
      .offset = moves || io_u->ddir == DDIR_TRIM ? io_u->offset : 0,
      .length = moves || io_u->ddir == DDIR_TRIM ? io_u->xfer_buflen : 0,
      .buffer = moves ? io_u->xfer_buf : NULL,
      .user_data = (uint64_t)(uintptr_t)io_u,
  };
  return FIO_Q_QUEUED;
}

static int engine_commit(struct thread_data *td) {
  struct job *job = td->io_ops_data;
  size_t submitted = 0;
  if (job->queued == 0) return 0;
  int result = archip_queue_submit(job->queue, job->requests, job->queued, &submitted);
  io_u_mark_submit(td, submitted);
  job->queued -= submitted;
  memmove(job->requests, job->requests + submitted, job->queued * sizeof *job->requests);
  if (result == 0 || result == -EAGAIN) return 0;
  failed(td, result, "submit");
  return result;
}

static int engine_getevents(struct thread_data *td, unsigned int least, unsigned int most, const struct timespec *time) {
  struct job *job = td->io_ops_data;
  int64_t timeout = time ? (int64_t)time->tv_sec * 1000000000 + time->tv_nsec : -1;
  size_t count = 0;
  int result = archip_queue_wait(job->queue, job->completions, most, least, timeout, &count);
  return result ? result : (int)count;
}

static struct io_u *engine_event(struct thread_data *td, int number) {
  const struct job *job = td->io_ops_data;
  struct io_u *io_u = (struct io_u *)(uintptr_t)job->completions[number].user_data;
  io_u->error = -job->completions[number].result;
  return io_u;
}

/* Nothing is kept in front of the library that could be dropped. */
static int engine_invalidate(struct thread_data *td, struct fio_file *file) {
  (void)td;
  (void)file;
  return 0;
}

extern struct ioengine_ops ioengine;
struct ioengine_ops ioengine = {
    .name = "archipelago",
    .version = FIO_IOOPS_VERSION,
    .flags = FIO_DISKLESSIO | FIO_NOEXTEND | FIO_NODISKUTIL,
    .setup = engine_setup,
    .init = engine_init,
    .queue = engine_queue,
    .commit = engine_commit,
    .getevents = engine_getevents,
    .event = engine_event,
    .cleanup = engine_cleanup,
    .open_file = engine_open_file,
    .close_file = engine_close_file,
    .invalidate = engine_invalidate,
    .options = options,
    .option_struct_size = sizeof(struct engine_options),
};
