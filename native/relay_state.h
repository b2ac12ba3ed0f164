#ifndef RP_RELAY_STATE_H
#define RP_RELAY_STATE_H
#include "relay.h"
#include "relay_mirror.h"
#include "relay_port.h"

#include <pthread.h>

/* The parts of the relay, shared by its sources.
 *
 * `lock` guards all but the mirror and the deadline. The relay's thread has it for one turn at a
 * time and never while it waits; `gate` makes that thread wait for its next turn behind a caller
 * who came meanwhile, which a plain mutex does not. Frames leave only from the relay's thread. */

struct rp_nic {
    struct rp_port port;
    struct rp_inputs *inputs;
    struct rp_book book;
    /* The socket is polled for room at the guest's side. */
    bool polled_for_room;
};

struct rp_relay {
    pthread_mutex_t gate;
    pthread_mutex_t lock;
    pthread_t thread;
    bool started;
    bool stopping;
    bool ended;
    struct rp_failure failure;
    int epoll_fd;
    int wake_fd;
    /* How long the thread may wait for a descriptor, and when to look for other guests. */
    int patience_ms;
    int64_t look_at_ns;

    struct rp_hold *hold;
    const struct rp_deadline *deadline;
    bool muted;
    /* Once an epoch each. */
    bool full_said;
    bool waiting_said;

    bool input_held;
    /* Number of the newest input, and of the last one before this session. */
    uint64_t newest_seq;
    uint64_t base_seq;
    uint64_t no_room_frames;

    struct rp_mirror mirror;
    struct rp_costs costs;
    struct rp_batch batch;
    uint32_t nic_count;
    struct rp_nic nics[];
};

int64_t rp_now_ns(clockid_t clock);

void rp_relay_enter(struct rp_relay *relay);
void rp_relay_leave(struct rp_relay *relay);
/* The same for a command: 0 when the relay can do something, and then it is entered. */
int rp_relay_ask(struct rp_relay *relay);
/* Leave, and let the thread go round when there is something that only it does. Returns the code,
 * or -EIO when the command made the relay fail. */
int rp_relay_answer(struct rp_relay *relay, int code);
/* Note the first thing that went wrong; the thread ends at its next turn. */
void rp_relay_fail(struct rp_relay *relay, enum rp_action action, uint16_t nic, int code);
void rp_relay_wake(struct rp_relay *relay);

/* The thread; the argument is the relay. */
void *rp_relay_run(void *argument);
/* Make the descriptors that it waits for. */
int rp_relay_open_poll(struct rp_relay *relay);
void rp_relay_close_poll(struct rp_relay *relay);

/* Traffic, under the lock. What fails is noted by `rp_relay_fail`. */

/* Take what the guest has sent; false when its socket was read empty. */
bool rp_relay_read_guest(struct rp_relay *relay, uint16_t nic);
/* Read every guest's socket empty. A guest that runs and sends faster does not keep us here. */
void rp_relay_drain_guest(struct rp_relay *relay);
/* Write what may leave, each frame only before the deadline. */
void rp_relay_write_network(struct rp_relay *relay, uint32_t most);
bool rp_relay_in_time(const struct rp_relay *relay);
/* Number what the network has for the guest, give it or let it wait. */
void rp_relay_read_network(struct rp_relay *relay, uint16_t nic);
/* The next input. */
int rp_relay_accept(struct rp_relay *relay, uint16_t nic, const void *data, uint32_t size);
/* Give the guest what waits, as far as its queue has room. */
void rp_relay_deliver(struct rp_relay *relay, uint16_t nic);
/* Frames wait only because the guest's queue is full, or nobody is there. */
bool rp_relay_wants_room(const struct rp_nic *nic);

#endif
