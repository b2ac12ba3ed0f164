#ifndef RP_RELAY_H
#define RP_RELAY_H
#include "relay_book.h"
#include "relay_frame.h"
#include "relay_hold.h"
#include "relay_inputs.h"

/* The relay of a guest's frames: unix sockets of its NICs on one side, TAP devices on the other, a
 * thread in between. replicator/output/base.py says in which order it is asked what, and
 * replicator/output/relay.py does the same in Python: the tests hold both to one contract.
 *
 * Every function may be called from any thread, and is done when it returns. Those that can fail
 * return -ESHUTDOWN after the end and -EIO once the relay has failed; see `rp_relay_failure`. */
struct rp_relay;

/* Until when this side may speak (CLOCK_BOOTTIME): one word that any thread replaces as a whole and
 * the relay reads before each write to a TAP. */
struct rp_deadline {
    int64_t ns;
};

void rp_deadline_store(struct rp_deadline *deadline, int64_t ns);
int64_t rp_deadline_load(const struct rp_deadline *deadline);

/* What was done when the relay failed. */
enum rp_action {
    RP_ACTION_NONE,
    RP_ACTION_RECV_GUEST,
    RP_ACTION_SEND_GUEST,
    RP_ACTION_CONNECT_GUEST,
    RP_ACTION_TAP,
    RP_ACTION_WAIT,
    /* The owner said so. */
    RP_ACTION_OWNER,
};

struct rp_failure {
    enum rp_action action;
    uint16_t nic;
    /* A negative errno. */
    int code;
};

struct rp_mark {
    uint64_t input_seq;
    uint64_t held_frames;
    uint64_t held_bytes;
};

struct rp_relay_stats {
    struct rp_hold_counters output;
    /* Of all NICs; refused are those without room, too. */
    struct rp_input_counters input;
    /* Since the last restart of the inputs. */
    uint64_t newest_seq;
    int64_t oldest_held_age_ns;
    bool muted;
    bool connected;
};

/* What there is to tell: a batch of inputs, and how often other things happened. */
struct rp_news {
    /* The caller's room, at least one frame's. */
    uint8_t *data;
    uint64_t room;
    /* Frames one after the other in `data`, numbered without a gap since the relay was made. */
    uint64_t first_number;
    uint32_t frames;
    uint32_t sizes[256];
    uint16_t nics[256];
    /* The open epoch should be closed early. */
    uint64_t fulls;
    /* The first frame of an epoch is held. */
    uint64_t waits;
    /* Mute, unmuted, mute and so on. */
    uint64_t mute_turns;
    /* There will be no more. */
    bool ended;
};

/* The deadline must stay as long as it is used. -ENOMEM and what the system says. */
int rp_relay_create(uint32_t nics, enum rp_mode mode, uint64_t hold_bytes_max,
                    const struct rp_deadline *deadline, struct rp_relay **relay_ret);
/* Before the start: a NIC's address, its bound socket, its TAP and the guest's path. Both
 * descriptors stay the caller's. -EINVAL for another NIC, -ENAMETOOLONG. */
int rp_relay_set_nic(struct rp_relay *relay, uint16_t nic, const void *mac, int socket_fd,
                     int tap_fd, const char *guest_path);
int rp_relay_start(struct rp_relay *relay);
/* Let its thread run before the guests and all else (SCHED_RR). -EPERM where that is not allowed.
 */
int rp_relay_hurry(struct rp_relay *relay, int priority);
/* Waits for the thread. May be repeated. */
void rp_relay_stop(struct rp_relay *relay);
void rp_relay_destroy(struct rp_relay *relay);
/* The owner cannot go on: the relay has failed, unless it has already. */
void rp_relay_abort(struct rp_relay *relay);

int rp_relay_hold_input(struct rp_relay *relay);
/* Returns when the guest has taken all or the time is over. -EINVAL unless inputs are held. */
int rp_relay_quiesce_input(struct rp_relay *relay, int64_t timeout_ns, uint64_t *unread_ret);
/* -EINVAL unless inputs are held and the epoch is a new one. */
int rp_relay_drain_and_mark(struct rp_relay *relay, uint64_t epoch, struct rp_mark *mark_ret);
/* The first `room` bytes of the frames that `rp_relay_resume_input` gives again, in order; what
 * does not fit is left out. */
void rp_relay_copy_doubtful(struct rp_relay *relay, struct rp_news *news);
int rp_relay_resume_input(struct rp_relay *relay);
/* Returns the number of the last input of before. */
uint64_t rp_relay_restart_inputs(struct rp_relay *relay);
/* -EINVAL for a NIC that is not there, -ENOSPC for more than a log may have. */
int rp_relay_replay(struct rp_relay *relay, const struct rp_frames *frames);

int rp_relay_release(struct rp_relay *relay, uint64_t epoch, uint64_t *frames_ret);
int rp_relay_set_mode(struct rp_relay *relay, enum rp_mode mode, uint64_t *frames_ret);
uint64_t rp_relay_discard_output(struct rp_relay *relay);
int rp_relay_announce(struct rp_relay *relay, const struct rp_frames *frames);
void rp_relay_set_deadline(struct rp_relay *relay, const struct rp_deadline *deadline);

void rp_relay_read_stats(struct rp_relay *relay, struct rp_relay_stats *stats_ret);
void rp_relay_read_book(struct rp_relay *relay, uint16_t nic, struct rp_book *book_ret);
void rp_relay_read_failure(struct rp_relay *relay, struct rp_failure *failure_ret);

/* Waits until there is something that is not in `news` yet. One thread only. */
void rp_relay_take_news(struct rp_relay *relay, struct rp_news *news);

#endif
