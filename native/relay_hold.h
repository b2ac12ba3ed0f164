#ifndef RP_RELAY_HOLD_H
#define RP_RELAY_HOLD_H
#include "relay_frame.h"

/* Output commit: which frame of the guest belongs to which epoch, and when it may leave. The rules
 * are those of replicator/engine/output.py, which is the oracle of the tests. Not locked. */
struct rp_hold;

enum rp_mode { RP_MODE_PASS, RP_MODE_HOLD };

struct rp_hold_counters {
    enum rp_mode mode;
    uint64_t held_frames;
    uint64_t held_bytes;
    /* Of the oldest held frame; 0 when there is none. */
    int64_t oldest_held_ns;
    uint64_t left_frames;
    uint64_t left_bytes;
    uint64_t lost_frames;
    uint64_t discarded_frames;
};

/* Holds no more than bytes_max, each frame counted with 128 bytes more. -ENOMEM. */
int rp_hold_create(uint64_t bytes_max, enum rp_mode mode, struct rp_hold **hold_ret);
void rp_hold_destroy(struct rp_hold *hold);

/* Take the guest's next frame; false when there was no room and it is lost. */
bool rp_hold_add(struct rp_hold *hold, uint16_t nic, const void *data, uint32_t size,
                 int64_t now_ns);
/* Frames that never got here whole. */
void rp_hold_count_lost(struct rp_hold *hold, uint64_t frames);
/* A frame of ours that leaves in either mode, after what is leaving already; false when there was
 * no room and it is lost. */
bool rp_hold_inject(struct rp_hold *hold, uint16_t nic, const void *data, uint32_t size,
                    int64_t now_ns);

/* Close the open epoch. -EINVAL unless it is newer than the last one. */
int rp_hold_mark_barrier(struct rp_hold *hold, uint64_t epoch, uint64_t *frames_ret,
                         uint64_t *bytes_ret);
/* Let the frames of all epochs up to this one leave. -EINVAL for one that was not closed. */
int rp_hold_release(struct rp_hold *hold, uint64_t epoch, uint64_t *frames_ret);
/* PASS lets everything held leave, HOLD begins with the next frame. Returns how many were let go.
 */
uint64_t rp_hold_set_mode(struct rp_hold *hold, enum rp_mode mode);
/* Throw away everything that has not left, and hold from now on. Returns how many frames went. */
uint64_t rp_hold_discard(struct rp_hold *hold);

/* The frame to write now, NULL when there is none. It stays until `rp_hold_mark_left`. */
const struct rp_frame *rp_hold_next_leaving(const struct rp_hold *hold);
/* It was written, or could not be and is lost. */
void rp_hold_mark_left(struct rp_hold *hold, bool written);

/* The open epoch should be closed early. */
bool rp_hold_is_full(const struct rp_hold *hold);
void rp_hold_count(const struct rp_hold *hold, struct rp_hold_counters *counters_ret);

#endif
