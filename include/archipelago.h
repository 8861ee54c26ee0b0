/* libarchipelago: the Archipelago storage engine.
 *
 * Functions return 0 or a negative errno, and archip_last_error() has the message. Who owns what, which threads may do what, and
 * what stays as it is in later versions is in docs/c-api.md.
 */

#ifndef ARCHIPELAGO_H
#define ARCHIPELAGO_H

/* Made from the source of the library by `make header`; changes here are overwritten. */

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/**
 * Bytes of the longest name, without the NUL at its end.
 */
#define ARCHIP_MAX_NAME 82

/**
 * Bytes of a field for a name.
 */
#define ARCHIP_NAME_SIZE 96

/**
 * `archip_info.kind`: a volume.
 */
#define ARCHIP_KIND_VOLUME 1

/**
 * `archip_info.kind`: a snapshot.
 */
#define ARCHIP_KIND_SNAPSHOT 2

/**
 * `archip_info.kind`: a file of an object store.
 */
#define ARCHIP_KIND_OBJECT 3

/**
 * `archip_info.kind`: its header cannot be read; only `name` is filled.
 */
#define ARCHIP_KIND_DAMAGED 255

/**
 * `archip_info.flags`: it never changes.
 */
#define ARCHIP_INFO_READ_ONLY 1

/**
 * `archip_info.flags`: some process has it open for writing; the `owner` fields say which.
 */
#define ARCHIP_INFO_OPEN 2

/**
 * `archip_info.flags`: it is being received.
 */
#define ARCHIP_INFO_RECEIVING 4

/**
 * `archip_resize`: may become smaller; what is cut off is gone.
 */
#define ARCHIP_RESIZE_SHRINK 1

/**
 * `archip_queue_options.flags`: operations are carried out by the thread that submits them; `threads` is 0.
 */
#define ARCHIP_QUEUE_INLINE 1

/**
 * `archip_request.operation`: as `archip_pread` or `archip_preadv`.
 */
#define ARCHIP_READ 1

/**
 * `archip_request.operation`: as `archip_pwrite` or `archip_pwritev`.
 */
#define ARCHIP_WRITE 2

/**
 * `archip_request.operation`: as `archip_flush`.
 */
#define ARCHIP_FLUSH 3

/**
 * `archip_request.operation`: as `archip_discard`.
 */
#define ARCHIP_DISCARD 4

/**
 * `archip_request.operation`: as `archip_write_zeroes`.
 */
#define ARCHIP_WRITE_ZEROES 5

/**
 * `archip_init_options`: `group` is meant.
 */
#define ARCHIP_INIT_GROUP 1

/**
 * `archip_store_options.flags`: data is read and written past the page cache (`O_DIRECT`); `EINVAL` where the file system cannot.
 */
#define ARCHIP_STORE_DIRECT 1

/**
 * Version of the interface that the header describes: major * 65536 + minor. A program may ask for what was added later than 1.0 if
 * `archip_version()` is at least that.
 */
#define ARCHIP_VERSION 65536

/**
 * `archip_volume_open`: only reading. Snapshots can only be opened so.
 */
#define ARCHIP_OPEN_READ_ONLY 1

/**
 * Flag of writes and write-zeroes: durable when it returns, and everything that returned before it was called.
 */
#define ARCHIP_FUA 1

/**
 * Flag of write-zeroes: keep room for the range.
 */
#define ARCHIP_ALLOCATE 2

/**
 * Bytes of one request.
 */
#define ARCHIP_MAX_REQUEST 67108864

/**
 * Parts of one request.
 */
#define ARCHIP_MAX_PARTS 1024

/**
 * `archip_extent.flags`: known to read as zeros, and takes no room.
 */
#define ARCHIP_EXTENT_ZERO 1

/**
 * `archip_check`: put right what can be put right without inventing data.
 */
#define ARCHIP_CHECK_REPAIR 1

/**
 * `archip_check`: read all data too, and compare it with its checksums and digests.
 */
#define ARCHIP_CHECK_DATA 2

/**
 * `archip_collect`: only say what would be collected.
 */
#define ARCHIP_COLLECT_DRY_RUN 1

/**
 * Bytes of the field for a digest: 64 hexadecimal digits and NUL.
 */
#define ARCHIP_DIGEST_SIZE 65

/**
 * An open store, named by a handle: see `archip_store_open`.
 */
typedef uint64_t archip_store;

/**
 * What a listing shows.
 */
typedef struct archip_list_options {
  /**
   * `sizeof` this struct.
   */
  size_t size;
  /**
   * Names that start with this; null: all.
   */
  const char *prefix;
  /**
   * Names that sort after this one, in byte order; null: from the first.
   */
  const char *after;
} archip_list_options;

/**
 * Facts about a volume or snapshot.
 */
typedef struct archip_info {
  /**
   * `sizeof` this struct; set by the caller.
   */
  size_t size;
  /**
   * Name.
   */
  char name[ARCHIP_NAME_SIZE];
  /**
   * Name of the snapshot it was cloned from, or of the volume it is a snapshot of; its id in brackets if that has no name any more;
   * empty if there is none.
   */
  char parent[ARCHIP_NAME_SIZE];
  /**
   * Id, 16 hexadecimal digits: no two volumes or snapshots of a store ever have the same.
   */
  char id[24];
  /**
   * `ARCHIP_KIND_...`
   */
  uint32_t kind;
  /**
   * `ARCHIP_INFO_...`
   */
  uint32_t flags;
  /**
   * Size in bytes.
   */
  uint64_t volume_size;
  /**
   * Block size in bytes.
   */
  uint64_t block_size;
  /**
   * Live epoch.
   */
  uint64_t epoch;
  /**
   * Bytes that are not known to be zero. Of a volume open in another process: as of its last checkpoint.
   */
  uint64_t mapped;
  /**
   * Seconds since 1970.
   */
  uint64_t created;
  /**
   * Process that has it open.
   */
  uint32_t owner_pid;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Host of that process.
   */
  char owner_host[72];
  /**
   * Command name of that process.
   */
  char owner_command[32];
} archip_info;

/**
 * How a volume is made.
 */
typedef struct archip_create_options {
  /**
   * `sizeof` this struct.
   */
  size_t size;
  /**
   * Block size in bytes: a power of two, 64 KiB to 64 MiB. 0: the store's.
   */
  uint64_t block_size;
  /**
   * 0: no flags are defined.
   */
  uint32_t flags;
  /**
   * 0.
   */
  uint32_t reserved;
} archip_create_options;

/**
 * How a clone is made.
 */
typedef struct archip_clone_options {
  /**
   * `sizeof` this struct.
   */
  size_t size;
  /**
   * Size in bytes, not below the snapshot's. 0: the snapshot's.
   */
  uint64_t volume_size;
  /**
   * 0: no flags are defined.
   */
  uint32_t flags;
  /**
   * 0.
   */
  uint32_t reserved;
} archip_clone_options;

/**
 * A volume of a group snapshot, and the name of its snapshot.
 */
typedef struct archip_group_member {
  /**
   * The volume.
   */
  const char *volume;
  /**
   * The name of its snapshot.
   */
  const char *snapshot;
} archip_group_member;

/**
 * How a queue is made.
 */
typedef struct archip_queue_options {
  /**
   * `sizeof` this struct.
   */
  size_t size;
  /**
   * Operations that may be submitted and not collected, 1 to 65,536. 0: 256.
   */
  uint32_t depth;
  /**
   * Threads that carry them out, 1 to 64. 0: as many as there are processors.
   */
  uint32_t threads;
  /**
   * `ARCHIP_QUEUE_INLINE`.
   */
  uint32_t flags;
  /**
   * 0.
   */
  uint32_t reserved;
} archip_queue_options;

/**
 * A queue of operations, named by a handle: see `archip_queue_create`.
 */
typedef uint64_t archip_queue;

/**
 * An open volume or snapshot, named by a handle: see `archip_volume_open`.
 */
typedef uint64_t archip_volume;

/**
 * An operation to be carried out.
 */
typedef struct archip_request {
  /**
   * What it is for; open for as long as the operation is in flight, and closing it waits.
   */
  archip_volume volume;
  /**
   * `ARCHIP_READ` and so on.
   */
  uint32_t operation;
  /**
   * As for the function of the same name.
   */
  uint32_t flags;
  /**
   * First byte in the volume; 0 for a flush.
   */
  uint64_t offset;
  /**
   * Bytes; 0 for a flush, and where there is an `iov`.
   */
  uint64_t length;
  /**
   * Buffer of a read or write. Null with `iov`, and for the other operations.
   */
  void *buffer;
  /**
   * Buffers of a read or write instead of `buffer`; the array too has to stay until the completion was collected.
   */
  const struct iovec *iov;
  /**
   * Elements of `iov`.
   */
  size_t iov_count;
  /**
   * Comes back with the completion.
   */
  uint64_t user_data;
} archip_request;

/**
 * The end of an operation.
 */
typedef struct archip_completion {
  /**
   * As in the request.
   */
  uint64_t user_data;
  /**
   * 0 or a negative errno. There is no message.
   */
  int32_t result;
  /**
   * 0.
   */
  uint32_t reserved;
} archip_completion;

/**
 * How a store is made.
 */
typedef struct archip_init_options {
  /**
   * `sizeof` this struct.
   */
  size_t size;
  /**
   * Block size of volumes that do not say otherwise, in bytes: a power of two, 64 KiB to 64 MiB. 0: 4 MiB.
   */
  uint64_t block_size;
  /**
   * Permission bits of its files, as for `chmod`. 0: 0660.
   */
  uint32_t mode;
  /**
   * `ARCHIP_INIT_GROUP`.
   */
  uint32_t flags;
  /**
   * With `ARCHIP_INIT_GROUP`: the group of its files. Otherwise 0.
   */
  uint32_t group;
  /**
   * 0.
   */
  uint32_t reserved;
} archip_init_options;

/**
 * How a store is opened.
 */
typedef struct archip_store_options {
  /**
   * `sizeof` this struct.
   */
  size_t size;
  /**
   * Bytes of memory for the nodes of maps, at most 4 GiB. 0: 64 MiB.
   */
  uint64_t node_cache;
  /**
   * Bytes of a volume's journal that may wait to be folded, 128 KiB to 1 GiB. 0: 32 MiB.
   */
  uint64_t max_unfolded;
  /**
   * `ARCHIP_STORE_DIRECT`.
   */
  uint32_t flags;
  /**
   * 0.
   */
  uint32_t reserved;
} archip_store_options;

/**
 * A text, named by a handle: see `archip_text_length`.
 */
typedef uint64_t archip_text;

/**
 * A range with or without data.
 */
typedef struct archip_extent {
  /**
   * First byte.
   */
  uint64_t offset;
  /**
   * Length in bytes.
   */
  uint64_t length;
  /**
   * `ARCHIP_EXTENT_ZERO` or 0.
   */
  uint32_t flags;
  /**
   * 0.
   */
  uint32_t reserved;
} archip_extent;

/**
 * How far long work is.
 */
typedef struct archip_progress {
  /**
   * `sizeof` this struct as the library knows it.
   */
  size_t size;
  /**
   * Of a collection: 0 lists, 1 waits for others, 2 walks the maps, 3 removes. 0 for other work.
   */
  uint32_t phase;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Done so far: blocks hashed or compacted, maps checked (bytes, if data is), bytes scrubbed, parts of the phase of a collection,
   * position in the snapshot sent or received.
   */
  uint64_t done;
  /**
   * The whole, as far as is known; 0 if it is not.
   */
  uint64_t total;
} archip_progress;

/**
 * Is told how far long work is, in the thread of the call. Anything but 0 ends the call with `ECANCELED`.
 */
typedef int (*archip_progress_callback)(void *user_data, const struct archip_progress *progress);

/**
 * How long work is done.
 */
typedef struct archip_work {
  /**
   * `sizeof` this struct.
   */
  size_t size;
  /**
   * Those of the call: `ARCHIP_CHECK_...`, `ARCHIP_COLLECT_...`.
   */
  uint32_t flags;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Most bytes read or copied per second, on average. 0: no limit.
   */
  uint64_t rate;
  /**
   * Is told how far it is; null: nobody is.
   */
  archip_progress_callback progress;
  /**
   * First argument of `progress`.
   */
  void *user_data;
} archip_work;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Lists volumes and snapshots in byte order of their names: fills at most `capacity` (1 to 10,000; more are taken as that) of `entries`, of which
 * the first says how large each is, and gives how many. `next` has `ARCHIP_NAME_SIZE` bytes; it is empty if nothing follows, otherwise it is
 * what `after` of the next call has to be. `options` may be null.
 */
int archip_list(archip_store store,
                const struct archip_list_options *options,
                struct archip_info *entries,
                size_t capacity,
                size_t *count,
                char *next);

/**
 * Gives facts about a volume or snapshot. One that is open in this process is described as it is now.
 */
int archip_get_info(archip_store store, const char *name, struct archip_info *info);

/**
 * Makes an empty volume of `volume_size` bytes, 1 to 4 PiB. `options` may be null.
 */
int archip_create(archip_store store,
                  const char *name,
                  uint64_t volume_size,
                  const struct archip_create_options *options);

/**
 * Makes a writable clone of a snapshot, in constant time. `options` may be null.
 */
int archip_clone(archip_store store,
                 const char *snapshot,
                 const char *name,
                 const struct archip_clone_options *options);

/**
 * Makes clones of a snapshot under `count` names, 1 to 100,000, in one commit: all of them, or an error and none. `options` may be null.
 */
int archip_clone_many(archip_store store,
                      const char *snapshot,
                      const char *const *names,
                      size_t count,
                      const struct archip_clone_options *options);

/**
 * Takes a snapshot of a volume. If another process has it open, that one does it.
 */
int archip_snapshot(archip_store store, const char *volume, const char *snapshot);

/**
 * Takes snapshots of `count` volumes at one instant: all of them, or an error and none.
 */
int archip_snapshot_group(archip_store store, const struct archip_group_member *members, size_t count);

/**
 * Removes a volume or snapshot, in any order; what others use of it stays. Refused (`EBUSY`) while it is open.
 */
int archip_remove(archip_store store, const char *name);

/**
 * Gives a volume or snapshot another name. If another process has it open, that one does it.
 */
int archip_rename(archip_store store, const char *name, const char *new_name);

/**
 * Sets the size of a volume. `flags` is 0 or `ARCHIP_RESIZE_SHRINK`. If another process has it open, that one does it.
 */
int archip_resize(archip_store store, const char *name, uint64_t volume_size, uint32_t flags);

/**
 * The message of the last call of this thread that failed, never null; "" if none did. Good until the next one that fails.
 */
const char *archip_last_error(void);

/**
 * Makes a queue. `options` may be null.
 */
int archip_queue_create(const struct archip_queue_options *options, archip_queue *queue);

/**
 * Carries out what was submitted, drops the completions that nobody collected, and closes a queue. Threads that wait in it get `ECANCELED`.
 */
int archip_queue_close(archip_queue queue);

/**
 * Submits `count` requests in order, and gives how many were taken. If that is not all of them, the first that was not is why, and
 * what is returned is its error: `EAGAIN` if the queue has no room, `EINVAL` or `EBADF` if something is wrong with it.
 */
int archip_queue_submit(archip_queue queue,
                        const struct archip_request *requests,
                        size_t count,
                        size_t *submitted);

/**
 * Waits until at least `least` completions are there, moves at most `capacity` of them to `completions`, and gives how many.
 * `timeout` is in nanoseconds; 0 does not wait, and a negative one is none: waits for ever, also for operations that were not submitted yet.
 * When it is over there may be fewer than `least`, or none: that is no error. `least` is at most `capacity` and the depth of the queue.
 */
int archip_queue_wait(archip_queue queue,
                      struct archip_completion *completions,
                      size_t capacity,
                      size_t least,
                      int64_t timeout,
                      size_t *count);

/**
 * Gives a descriptor that is readable as long as there are completions to collect. It is the queue's and closed with it: poll it, and do
 * nothing else with it.
 */
int archip_queue_eventfd(archip_queue queue,
                         int *descriptor);

/**
 * Makes a store at `location`: `file:` and the path of a directory that is empty or does not exist, or `rados:` and a pool of a Ceph
 * cluster. `options` may be null.
 */
int archip_store_init(const char *location,
                      const struct archip_init_options *options);

/**
 * Opens the store at `location`: `file:` and the path of its directory, or `rados:` and a pool of a Ceph cluster. `options` may be null.
 */
int archip_store_open(const char *location,
                      const struct archip_store_options *options,
                      archip_store *store);

/**
 * Closes a store. Volumes that were opened from it stay open.
 */
int archip_store_close(archip_store store);

/**
 * Gives the state of a store as JSON: what it is, how many volumes and snapshots it has, the room on its file system, the processes that
 * have it open and what they are doing.
 */
int archip_store_status(archip_store store,
                        archip_text *status);

/**
 * Gives the number of bytes of a text, which has no NUL at its end.
 */
int archip_text_length(archip_text text, size_t *length);

/**
 * Copies the bytes of a text from `offset`, at most `capacity` of them, and gives how many: 0 at its end.
 */
int archip_text_copy(archip_text text,
                     size_t offset,
                     char *buffer,
                     size_t capacity,
                     size_t *copied);

/**
 * Closes a text.
 */
int archip_text_close(archip_text text);

/**
 * The version of the interface that this library has, as `ARCHIP_VERSION`.
 */
uint32_t archip_version(void);

/**
 * The release of the engine, for people, for example "0.1.0".
 */
const char *archip_release(void);

/**
 * Opens a volume or snapshot. `flags` is 0, for reading and writing, which one process at a time may do (`EBUSY`), or `ARCHIP_OPEN_READ_ONLY`.
 */
int archip_volume_open(archip_store store,
                       const char *name,
                       uint32_t flags,
                       archip_volume *volume);

/**
 * Flushes a volume if it is open for writing, and closes it. Waits for calls and submitted operations that use it. The handle is
 * gone, whatever is returned.
 */
int archip_volume_close(archip_volume volume);

/**
 * Gives facts about an open volume.
 */
int archip_volume_info(archip_volume volume, struct archip_info *info);

/**
 * Gives the size of an open volume in bytes, as it is now.
 */
int archip_volume_size(archip_volume volume, uint64_t *volume_size);

/**
 * Fills `buffer` with the `length` bytes at `offset`.
 */
int archip_pread(archip_volume volume, void *buffer, size_t length, uint64_t offset);

/**
 * Fills the `count` buffers of `iov`, one after the other, with the bytes at `offset`.
 */
int archip_preadv(archip_volume volume, const struct iovec *iov, size_t count, uint64_t offset);

/**
 * Writes the `length` bytes of `buffer` at `offset`. `flags` is 0 or `ARCHIP_FUA`. Durable after the next flush, or with `ARCHIP_FUA`
 * when it returns.
 */
int archip_pwrite(archip_volume volume,
                  const void *buffer,
                  size_t length,
                  uint64_t offset,
                  uint32_t flags);

/**
 * Writes the `count` buffers of `iov`, one after the other, at `offset`. `flags` as for `archip_pwrite`.
 */
int archip_pwritev(archip_volume volume, const struct iovec *iov, size_t count, uint64_t offset, uint32_t flags);

/**
 * Makes every write that returned before this call durable.
 */
int archip_flush(archip_volume volume);

/**
 * Frees the room of the whole sectors of 4096 bytes inside the range, which read as zeros from then on; the rest of the range is left as it is.
 * `flags` is 0.
 */
int archip_discard(archip_volume volume,
                   uint64_t offset,
                   uint64_t length,
                   uint32_t flags);

/**
 * Makes the range read as zeros, whole volumes too. `flags` is any of `ARCHIP_FUA` and `ARCHIP_ALLOCATE`.
 */
int archip_write_zeroes(archip_volume volume, uint64_t offset, uint64_t length, uint32_t flags);

/**
 * Gives the ranges of `offset` to `offset + length` in order, neighbours of the same kind joined: fills at most `capacity` (1 to 65,536; more are
 * taken as that) of `extents`, and gives how many. They may end before the range does; go on behind the last one.
 */
int archip_extents(archip_volume volume,
                   uint64_t offset,
                   uint64_t length,
                   struct archip_extent *extents,
                   size_t capacity,
                   size_t *count);

/**
 * Gives every block of a snapshot a digest, in place, and puts the top hash, as Pithos has it for a file of the same bytes, at
 * `digest`: `ARCHIP_DIGEST_SIZE` bytes. What was hashed before the call was ended is passed over the next time. `work` may be null.
 */
int archip_hash(archip_store store,
                const char *name,
                const struct archip_work *work,
                char *digest);

/**
 * Looks at everything in a store and gives a report as JSON: what is wrong, what is left over, what is lost. What is wrong with the store is
 * in the report, and no error. Flags: `ARCHIP_CHECK_REPAIR`, `ARCHIP_CHECK_DATA`. `work` may be null.
 */
int archip_check(archip_store store,
                 const struct archip_work *work,
                 archip_text *report);

/**
 * Reads all data of ended epochs and compares it with its checksums; what has none gets one. Gives a report as JSON. `work` may be null.
 */
int archip_scrub(archip_store store,
                 const struct archip_work *work,
                 archip_text *report);

/**
 * Removes what no map names any more, and gives a report as JSON. Safe at any time, beside whatever other processes do; `EAGAIN`
 * while another collection runs. Flags: `ARCHIP_COLLECT_DRY_RUN`. `work` may be null.
 */
int archip_collect(archip_store store,
                   const struct archip_work *work,
                   archip_text *report);

/**
 * Gathers the pieces of blocks of an open volume that lie in more than `max_extents` pieces, while it is in use. What was gathered is no
 * longer shared with snapshots. 0 takes every block that is not in one piece. `work` may be null.
 */
int archip_compact(archip_volume volume,
                   size_t max_extents,
                   const struct archip_work *work);

/**
 * Writes a snapshot to a descriptor as a stream: whole, or only what differs from the snapshot `from`, which may be null. As with `write`, a
 * pipe that nobody reads raises SIGPIPE. `rate` does not count here. `work` may be null.
 */
int archip_send(archip_store store,
                const char *snapshot,
                const char *from,
                int descriptor,
                const struct archip_work *work);

/**
 * Receives a stream from a descriptor as the snapshot `name`, which appears when all of it is here and verified. Of a stream that is cut or
 * damaged, what was received is kept, as `name.receiving`. No byte behind the end of the stream is read. `rate` does not count here. `work` may be
 * null.
 */
int archip_receive(archip_store store,
                   const char *name,
                   int descriptor,
                   const struct archip_work *work);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ARCHIPELAGO_H */

/* Structs that grow, with their size set and everything else 0: archip_work work = ARCHIP_INIT(archip_work); */
#ifdef __cplusplus
#define ARCHIP_INIT(type) type{sizeof(type)}
#else
#define ARCHIP_INIT(type) {.size = sizeof(type)}
#endif
