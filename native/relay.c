#define _GNU_SOURCE
#include "relay.h"
#include "relay_state.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

void rp_deadline_store(struct rp_deadline *deadline, int64_t ns)
{
    __atomic_store_n(&deadline->ns, ns, __ATOMIC_SEQ_CST);
}

int64_t rp_deadline_load(const struct rp_deadline *deadline)
{
    return __atomic_load_n(&deadline->ns, __ATOMIC_SEQ_CST);
}

/* Life. */

static int make_parts(struct rp_relay *relay, enum rp_mode mode, uint64_t hold_bytes_max)
{
    int code = rp_hold_create(hold_bytes_max, mode, &relay->hold);
    if (code == 0)
        code = rp_mirror_init(&relay->mirror);
    if (code == 0)
        code = rp_costs_open(&relay->costs);
    for (uint32_t nic = 0; nic < relay->nic_count && code == 0; nic++)
        code = rp_inputs_create(&relay->nics[nic].inputs);
    return code;
}

int rp_relay_create(uint32_t nics, enum rp_mode mode, uint64_t hold_bytes_max,
                    const struct rp_deadline *deadline, struct rp_relay **relay_ret)
{
    struct rp_relay *relay = calloc(1, sizeof(*relay) + nics * sizeof(struct rp_nic));
    if (relay == NULL)
        return -ENOMEM;
    pthread_mutex_init(&relay->gate, NULL);
    pthread_mutex_init(&relay->lock, NULL);
    relay->epoll_fd = -1;
    relay->wake_fd = -1;
    relay->costs.near = -1;
    relay->deadline = deadline;
    relay->nic_count = nics;
    for (uint32_t nic = 0; nic < nics; nic++)
        relay->nics[nic].port = (struct rp_port){.socket_fd = -1, .tap_fd = -1};
    int code = make_parts(relay, mode, hold_bytes_max);
    if (code != 0) {
        rp_relay_destroy(relay);
        return code;
    }
    *relay_ret = relay;
    return 0;
}

int rp_relay_set_nic(struct rp_relay *relay, uint16_t nic, const void *mac, int socket_fd,
                     int tap_fd, const char *guest_path)
{
    if (nic >= relay->nic_count || relay->started)
        return -EINVAL;
    rp_book_init(&relay->nics[nic].book, mac);
    return rp_port_init(&relay->nics[nic].port, socket_fd, tap_fd, guest_path);
}

/* Signals are the other threads' business. */
static int start_thread(struct rp_relay *relay)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&relay->thread, NULL, rp_relay_run, relay);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        pthread_setname_np(relay->thread, "relay");
    return -error;
}

int rp_relay_hurry(struct rp_relay *relay, int priority)
{
    struct sched_param param = {.sched_priority = priority};
    return relay->started ? -pthread_setschedparam(relay->thread, SCHED_RR, &param) : -EINVAL;
}

int rp_relay_start(struct rp_relay *relay)
{
    if (relay->ended || relay->started)
        return -EINVAL;
    int code = rp_relay_open_poll(relay);
    if (code == 0)
        code = start_thread(relay);
    relay->started = code == 0;
    return code;
}

void rp_relay_stop(struct rp_relay *relay)
{
    rp_relay_enter(relay);
    relay->stopping = true;
    rp_relay_wake(relay);
    rp_relay_leave(relay);
    if (relay->started)
        pthread_join(relay->thread, NULL);
    rp_relay_enter(relay);
    relay->started = false;
    relay->ended = true;
    rp_relay_close_poll(relay);
    rp_costs_close(&relay->costs);
    for (uint32_t nic = 0; nic < relay->nic_count; nic++)
        relay->nics[nic].port = (struct rp_port){.socket_fd = -1, .tap_fd = -1};
    rp_relay_leave(relay);
    rp_mirror_end(&relay->mirror);
    rp_mirror_tell(&relay->mirror);
}

void rp_relay_destroy(struct rp_relay *relay)
{
    if (relay == NULL)
        return;
    if (relay->started)
        rp_relay_stop(relay);
    rp_costs_close(&relay->costs);
    rp_mirror_deinit(&relay->mirror);
    for (uint32_t nic = 0; nic < relay->nic_count; nic++)
        rp_inputs_destroy(relay->nics[nic].inputs);
    rp_hold_destroy(relay->hold);
    free(relay);
}

void rp_relay_enter(struct rp_relay *relay)
{
    pthread_mutex_lock(&relay->gate);
    pthread_mutex_lock(&relay->lock);
    pthread_mutex_unlock(&relay->gate);
}

void rp_relay_leave(struct rp_relay *relay) { pthread_mutex_unlock(&relay->lock); }

void rp_relay_fail(struct rp_relay *relay, enum rp_action action, uint16_t nic, int code)
{
    if (relay->failure.code == 0)
        relay->failure = (struct rp_failure){action, nic, code};
    rp_relay_wake(relay);
}

void rp_relay_wake(struct rp_relay *relay)
{
    if (relay->wake_fd >= 0)
        eventfd_write(relay->wake_fd, 1);
}

void rp_relay_abort(struct rp_relay *relay)
{
    rp_relay_enter(relay);
    rp_relay_fail(relay, RP_ACTION_OWNER, 0, -ECANCELED);
    rp_relay_leave(relay);
}

int rp_relay_ask(struct rp_relay *relay)
{
    rp_relay_enter(relay);
    int code = relay->failure.code != 0 ? -EIO : relay->ended ? -ESHUTDOWN : 0;
    if (code != 0)
        rp_relay_leave(relay);
    return code;
}

int rp_relay_answer(struct rp_relay *relay, int code)
{
    bool wanted = rp_hold_next_leaving(relay->hold) != NULL;
    for (uint32_t nic = 0; nic < relay->nic_count && !wanted; nic++)
        wanted = rp_relay_wants_room(&relay->nics[nic]);
    if (wanted)
        rp_relay_wake(relay);
    if (code == 0 && relay->failure.code != 0)
        code = -EIO;
    rp_relay_leave(relay);
    rp_mirror_tell(&relay->mirror);
    return code;
}

void rp_relay_set_deadline(struct rp_relay *relay, const struct rp_deadline *deadline)
{
    rp_relay_enter(relay);
    relay->deadline = deadline;
    rp_relay_answer(relay, 0);
}

/* Looks. */

static void count_inputs(const struct rp_relay *relay, struct rp_relay_stats *stats)
{
    struct rp_input_counters one, *all = &stats->input;
    stats->connected = true;
    for (uint32_t nic = 0; nic < relay->nic_count; nic++) {
        rp_inputs_count(relay->nics[nic].inputs, &one);
        all->given_frames += one.given_frames;
        all->waiting_frames += one.waiting_frames;
        all->waiting_bytes += one.waiting_bytes;
        all->refused_frames += one.refused_frames;
        all->repeated_frames += one.repeated_frames;
        stats->connected = stats->connected && relay->nics[nic].port.connected;
    }
    all->refused_frames += relay->no_room_frames;
}

void rp_relay_read_stats(struct rp_relay *relay, struct rp_relay_stats *stats_ret)
{
    *stats_ret = (struct rp_relay_stats){0};
    rp_relay_enter(relay);
    rp_hold_count(relay->hold, &stats_ret->output);
    count_inputs(relay, stats_ret);
    stats_ret->newest_seq = relay->newest_seq - relay->base_seq;
    stats_ret->muted = relay->muted;
    rp_relay_leave(relay);
    if (stats_ret->output.held_frames > 0) {
        int64_t age_ns = rp_now_ns(CLOCK_BOOTTIME) - stats_ret->output.oldest_held_ns;
        stats_ret->oldest_held_age_ns = age_ns > 0 ? age_ns : 0;
    }
}

void rp_relay_read_book(struct rp_relay *relay, uint16_t nic, struct rp_book *book_ret)
{
    rp_relay_enter(relay);
    *book_ret = relay->nics[nic].book;
    rp_relay_leave(relay);
}

void rp_relay_read_failure(struct rp_relay *relay, struct rp_failure *failure_ret)
{
    rp_relay_enter(relay);
    *failure_ret = relay->failure;
    rp_relay_leave(relay);
}

void rp_relay_take_news(struct rp_relay *relay, struct rp_news *news)
{
    rp_mirror_take(&relay->mirror, news);
}
