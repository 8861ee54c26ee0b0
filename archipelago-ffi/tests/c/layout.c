/* The layout of what is exchanged, as version 1.0 has it: it never changes, but for structs with a size, which grow. */
#include "check.h"

#define FIELD(type, field, at) _Static_assert(offsetof(type, field) == (at), #type "." #field)
#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#define GROWN(type, bytes) _Static_assert(sizeof(type) >= (bytes) && offsetof(type, size) == 0, #type)

GROWN(archip_init_options, 32);
FIELD(archip_init_options, mode, 16);
FIELD(archip_init_options, group, 24);
GROWN(archip_store_options, 32);
FIELD(archip_store_options, max_unfolded, 16);
GROWN(archip_info, 384);
FIELD(archip_info, name, 8);
FIELD(archip_info, parent, 104);
FIELD(archip_info, id, 200);
FIELD(archip_info, kind, 224);
FIELD(archip_info, volume_size, 232);
FIELD(archip_info, created, 264);
FIELD(archip_info, owner_host, 280);
FIELD(archip_info, owner_command, 352);
GROWN(archip_list_options, 24);
GROWN(archip_create_options, 24);
GROWN(archip_clone_options, 24);
GROWN(archip_queue_options, 24);
GROWN(archip_work, 40);
FIELD(archip_work, progress, 24);
GROWN(archip_progress, 32);
SIZE(archip_extent, 24);
SIZE(archip_group_member, 16);
SIZE(archip_request, 64);
FIELD(archip_request, buffer, 32);
FIELD(archip_request, iov, 40);
FIELD(archip_request, user_data, 56);
SIZE(archip_completion, 16);
FIELD(archip_completion, result, 8);

int main(int argc, char **argv) {
  (void)argv;
  CHECK(argc == 2 && ARCHIP_VERSION >= 0x10000);
  return 0;
}
