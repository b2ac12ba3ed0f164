#ifndef RP_FAST_STATE_H
#define RP_FAST_STATE_H
#include "fast_path.h"
#include "frame_message.h"
#include "record_stream.h"

#include <stddef.h>

/* The parts of the fast path, shared by its sources. */

#define FAST_FRAME_BYTES_MAX 65536
/* Frames of one side before the others get their turn. */
#define FAST_TURN_FRAMES_MAX 32
#define FAST_NICS_MAX 32
#define FAST_ENTRIES_MAX 1024
/* Of the frames of a batch together, unless it has only one. */
#define FAST_BATCH_BYTES_MAX (64 << 10)

struct fast_nic {
    int socket_fd;
    int tap_fd;
    /* The guest's queue is full, and polled for room. */
    bool is_full;
    bool is_polled;
};

struct rp_fast_path {
    struct rp_fast_loan loan;
    struct rp_fast_outcome outcome;
    /* The outcome's, as they stand. */
    struct rp_fast_numbers numbers;
    /* When to return at the latest. */
    int64_t until_ns;
    /* Inputs that wait for the guest: none before this one, of those carried and then the entries;
     * and their bytes. */
    uint32_t first_waiting;
    uint64_t waiting_bytes;
    /* An input cannot be given, for another reason than that the guest's queue is full. */
    bool is_stuck;
    /* What is held and kept by this run. */
    int64_t held_cost;
    /* Outputs: the entry of each, from this number on. */
    uint64_t first_id;
    uint32_t output_count;
    uint32_t output_entry[FAST_ENTRIES_MAX];

    struct rp_record_stream stream;
    struct rp_message message;
    struct rp_fast_entry entries[FAST_ENTRIES_MAX];
    /* The entries' frames, one behind the other. */
    uint8_t *arena;
    size_t arena_bytes;
    size_t arena_used;
    uint32_t nic_count;
    struct fast_nic nics[FAST_NICS_MAX];
};

/* What a step says: go on, or how the run ends. */
#define FAST_GO_ON (-1)

int64_t fast_now_ns(void);

/* Entries. */

/* There is room for so many with frames of so many bytes together. */
bool fast_has_room(const struct rp_fast_path *path, uint32_t entries, size_t bytes);
/* Where the next frame is to be written. */
uint8_t *fast_room(const struct rp_fast_path *path);
/* It is there. */
struct rp_fast_entry *fast_add(struct rp_fast_path *path, bool is_output, uint32_t nic,
                               uint32_t size, uint64_t number);

/* The guest's socket. */

/* Receive the guest's next frame into the room: false when there is none, or an error that is for
 * others to see to. Of one that is too large, or empty, nothing is kept but that it was lost. */
bool fast_receive_guest(struct rp_fast_path *path, uint32_t nic, uint32_t *size_ret, int *end_ret);
/* Give the guest what waits, as far as its queue has room. */
void fast_give(struct rp_fast_path *path);
/* Ask for room at the guest's side exactly while frames wait for it. -errno. */
int fast_poll_for_room(struct rp_fast_path *path, bool is_over);

/* The channel. */

/* The message is this session's, and the next. */
bool fast_is_next(const struct rp_fast_path *path);
/* Send `message` under the next number. */
void fast_send(struct rp_fast_path *path);
/* Send the entries from this one on as batches: all are inputs, or outputs. */
void fast_send_entries(struct rp_fast_path *path, enum rp_message_kind kind, uint32_t first_entry);

/* What comes by a descriptor, on each side. */
int fast_primary_guest(struct rp_fast_path *path, uint32_t nic);
int fast_primary_network(struct rp_fast_path *path, uint32_t nic);
int fast_primary_message(struct rp_fast_path *path, const uint8_t *data, uint32_t size);
int fast_secondary_guest(struct rp_fast_path *path, uint32_t nic);
int fast_secondary_message(struct rp_fast_path *path, const uint8_t *data, uint32_t size);

/* When something is due, INT64_MAX for never, and what is done then. */
int64_t fast_primary_time_ns(const struct rp_fast_path *path);
int fast_primary_pass_time(struct rp_fast_path *path, int64_t now_ns);
int64_t fast_secondary_time_ns(const struct rp_fast_path *path);
int fast_secondary_pass_time(struct rp_fast_path *path);

#endif
