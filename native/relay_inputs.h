#ifndef RP_RELAY_INPUTS_H
#define RP_RELAY_INPUTS_H
#include "relay_frame.h"

/* One NIC's way in: frames that wait for the guest or were given to it, until it has surely taken
 * them. The rules, and why a stop leaves frames in doubt, are those of replicator/output/inputs.py,
 * which is the oracle of the tests. Knows no socket: who owns it gives the frames, and says how
 * many bytes the guest has not read (each frame counts what `rp_inputs_mark_given` was told). Not
 * locked. */
struct rp_inputs;

struct rp_input_counters {
    uint64_t given_frames;
    uint64_t waiting_frames;
    uint64_t waiting_bytes;
    uint64_t refused_frames;
    uint64_t repeated_frames;
};

/* -ENOMEM. */
int rp_inputs_create(struct rp_inputs **inputs_ret);
void rp_inputs_destroy(struct rp_inputs *inputs);

/* Whether a frame of the network may wait here; one from the log of a take-over always may. */
bool rp_inputs_has_room(const struct rp_inputs *inputs, uint32_t size);
/* The next frame, with a number above all before. -ENOSPC: not even the log fits. */
int rp_inputs_accept(struct rp_inputs *inputs, uint64_t number, const void *data, uint32_t size);

/* The frames to give next, in order; returns how many. None while held. */
uint32_t rp_inputs_peek(const struct rp_inputs *inputs, const struct rp_frame **frames,
                        uint32_t most);
/* The first of them lies in the guest's socket. */
void rp_inputs_mark_given(struct rp_inputs *inputs, uint32_t cost);
/* The first of them can never be given. */
void rp_inputs_mark_refused(struct rp_inputs *inputs);
/* Whether so many frames were given since the guest was last asked that it should be again. */
bool rp_inputs_wants_look(const struct rp_inputs *inputs);
/* Forget what the guest has read. */
void rp_inputs_prune(struct rp_inputs *inputs, int64_t unread_bytes);

/* Give nothing from now on. The guest runs. */
void rp_inputs_hold(struct rp_inputs *inputs);
/* How many frames the running guest has not taken. -EINVAL unless held. */
int rp_inputs_note_unread(struct rp_inputs *inputs, int64_t unread_bytes, uint64_t *frames_ret);
/* The guest stands still: what left its socket since the last look is in doubt. The number of the
 * oldest frame that it may not have, 0 when it has all. -EINVAL unless held. */
int rp_inputs_note_stop(struct rp_inputs *inputs, int64_t unread_bytes, uint64_t *oldest_ret);
/* The frames in doubt, which `rp_inputs_resume` gives again first; returns how many. */
uint32_t rp_inputs_doubtful(const struct rp_inputs *inputs, const struct rp_frame **frames,
                            uint32_t most);
void rp_inputs_resume(struct rp_inputs *inputs);

/* Another process took the guest's place: what was given to the former is gone with it. */
void rp_inputs_forget_given(struct rp_inputs *inputs);
void rp_inputs_count(const struct rp_inputs *inputs, struct rp_input_counters *counters_ret);

#endif
