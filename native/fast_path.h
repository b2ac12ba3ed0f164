#ifndef RP_FAST_PATH_H
#define RP_FAST_PATH_H
#include "shift_table.h"
#include "steady.h"

/* The way of frames through a relay of a COLO pair while nothing but the ordinary happens: known
 * connections, whose frames both guests say alike, an open channel without keys and room
 * everywhere.
 *
 * The relay in Python (replicator/output/colo_core.py, secondary_core.py) lends what this needs,
 * lets it run, and takes back what has become of it: the entries, in their order, and the counts.
 * Whatever else comes ends the run before anything is done about it, so that Python does it; or it
 * is handed over, when it cannot be put back. So that is the rule, and this a faster way to the
 * same result. One thread at a time. */
struct rp_fast_path;

struct rp_deadline;

/* Why a run ended. */
enum rp_fast_end {
    /* The wake descriptor, which is left as it is. */
    RP_FAST_WOKEN,
    /* The time given. */
    RP_FAST_TIME,
    /* No more room for entries, or more waits than may. */
    RP_FAST_FULL,
    /* Something is to be done which Python will find where it is. */
    RP_FAST_OTHER,
    /* `item` is a frame of the guest that was taken, and nothing more. */
    RP_FAST_GUEST,
    /* The same of the network. */
    RP_FAST_NETWORK,
    /* `item` is a message, taken, of which the first `rows_done` frames were heard. */
    RP_FAST_ROWS,
    /* The channel's connection is lost, by `line_error`. */
    RP_FAST_LOST,
};

/* A frame that was on its way before. */
struct rp_fast_carried {
    uint64_t number;
    int64_t at_ns;
    const uint8_t *data;
    uint32_t size;
    uint16_t nic;
    /* By the run: as of an entry. */
    bool is_done;
};

/* What is lent. What changes by a run is in the outcome. */
struct rp_fast_loan {
    /* Polls all that is named here for reading, as the descriptor itself. */
    int poll_fd;
    int wake_fd;
    /* Readable when the channel is, and its connection. */
    int channel_fd;
    int line_fd;
    uint8_t session[16];
    /* What came in by it and was not taken. */
    const uint8_t *rest;
    uint32_t rest_bytes;
    /* CLOCK_BOOTTIME. When to return, and so late after the first input. */
    int64_t until_ns;
    int64_t after_input_ns;
    /* Inputs that wait for the guest, in order. */
    uint32_t waiting_count;
    struct rp_fast_carried *waiting;

    /* The primary's; NULL makes it a secondary's. */
    struct rp_steady_flows *steady;
    const struct rp_deadline *deadline;
    /* Others than steady flows wait for confirmations. */
    bool others_unconfirmed;
    /* When to look whether a steady flow has waited for too long, and how often; the least and the
     * most that is too long (replicator/engine/compare/patience.py). */
    int64_t tick_ns;
    int64_t tick_every_ns;
    int64_t patience_min_ns;
    int64_t patience_max_ns;
    /* How much more may be held, each frame counted with 128 bytes more. */
    int64_t room_bytes;
    /* Outputs that are held, by their numbers. */
    uint32_t held_count;
    struct rp_fast_carried *held;

    /* The secondary's. */
    struct rp_shift_table *shifts;
    /* How long a confirmation may wait. */
    int64_t confirm_ns;
};

/* Numbers that go on by a run. */
struct rp_fast_numbers {
    /* Messages, in each direction. */
    uint64_t sent;
    uint64_t taken;
    /* Of the newest input, in this session. */
    uint64_t newest_seq;
    /* Which the guests run in. */
    uint64_t epoch;

    /* The primary's: of the newest frame, of the comparison's calls, how far inputs are confirmed,
     * and the longest wait of late (replicator/engine/compare/patience.py). */
    uint64_t newest_id;
    uint64_t turn;
    uint64_t inputs_upto;
    int64_t longest_wait_ns;

    /* The secondary's: when inputs are to be confirmed at the latest; 0 when there are none. */
    int64_t confirm_at_ns;
};

struct rp_fast_entry {
    /* Said by the guest, and not for it. */
    bool is_output;
    /* An input that the guest was given, and an output that has left or was lost on the way. */
    bool is_done;
    uint16_t nic;
    uint32_t size;
    /* Of an input in this session; of an output of the primary. */
    uint64_t number;
    int64_t at_ns;
    const uint8_t *data;
    /* An input as the guest gets it. */
    const uint8_t *given;
};

struct rp_fast_outcome {
    enum rp_fast_end end;
    struct rp_fast_numbers numbers;
    uint32_t entry_count;
    const struct rp_fast_entry *entries;
    /* Frames of the guest that never got here whole, and outputs that could not be written. */
    uint64_t lost_frames;
    uint64_t unwritten_frames;
    /* Outputs that left because both have said them. */
    uint64_t left_frames;
    uint64_t left_bytes;
    uint64_t equal_count;
    int64_t kept_change;
    /* May leave now, in this order, before anything else does. */
    uint32_t released_count;
    const uint64_t *released;

    uint16_t item_nic;
    uint32_t item_bytes;
    const uint8_t *item;
    uint32_t rows_done;

    int line_error;
    uint32_t rest_bytes;
    const uint8_t *rest;
    uint32_t unsent_bytes;
    const uint8_t *unsent;
};

/* -EINVAL for more than 32 NICs, -ENOMEM. */
int rp_fast_create(uint32_t nics, struct rp_fast_path **path_ret);
void rp_fast_destroy(struct rp_fast_path *path);
/* A secondary's has no TAP: -1. -EINVAL for another NIC. */
int rp_fast_set_nic(struct rp_fast_path *path, uint32_t nic, int socket_fd, int tap_fd);
/* Run until something else is to be done. The outcome stands until the next run, and until the
 * steady flows are called. */
const struct rp_fast_outcome *rp_fast_run(struct rp_fast_path *path,
                                          const struct rp_fast_loan *loan,
                                          const struct rp_fast_numbers *numbers);

#endif
