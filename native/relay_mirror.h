#ifndef RP_RELAY_MIRROR_H
#define RP_RELAY_MIRROR_H
#include "relay_frame.h"
#include "relay_ring.h"

#include <pthread.h>

/* What the relay has to tell its owner. The relay's thread adds and never waits; one other thread
 * takes. An owner that does not take in time misses inputs, as if they had not been mirrored. */

/* In one batch. */
#define RP_NEWS_FRAMES 256

struct rp_mirror {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct rp_ring inputs;
    /* How often it was said. */
    uint64_t fulls;
    uint64_t waits;
    uint64_t mute_turns;
    bool ended;
};

struct rp_news;

int rp_mirror_init(struct rp_mirror *mirror);
void rp_mirror_deinit(struct rp_mirror *mirror);

/* None of these wakes who waits; `rp_mirror_tell` does. */
void rp_mirror_add(struct rp_mirror *mirror, uint64_t number, uint16_t nic, const void *data,
                   uint32_t size);
void rp_mirror_say_full(struct rp_mirror *mirror);
void rp_mirror_say_waiting(struct rp_mirror *mirror);
void rp_mirror_say_mute_turn(struct rp_mirror *mirror);
void rp_mirror_end(struct rp_mirror *mirror);
void rp_mirror_tell(struct rp_mirror *mirror);

/* Wait for something that is not in `news` yet. */
void rp_mirror_take(struct rp_mirror *mirror, struct rp_news *news);

#endif
