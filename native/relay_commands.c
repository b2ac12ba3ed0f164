#include "relay_state.h"

#include <errno.h>
#include <string.h>

/* What the relay is asked for. It is done in the caller's thread under the lock: no switch of
 * threads while the guest stands still. */

/* Between two looks whether the guest has taken its inputs. */
#define QUIESCE_STEP_NS 50000

/* Inputs. */

static int note_unread(struct rp_relay *relay, uint64_t *unread_ret)
{
    int code = 0;
    uint64_t unread;
    *unread_ret = 0;
    for (uint32_t i = 0; i < relay->nic_count && code == 0; i++) {
        const struct rp_nic *nic = &relay->nics[i];
        code = rp_inputs_note_unread(nic->inputs, rp_port_unread_bytes(&nic->port), &unread);
        if (code == 0)
            *unread_ret += unread;
    }
    return code;
}

int rp_relay_hold_input(struct rp_relay *relay)
{
    uint64_t unread;
    int code = rp_relay_ask(relay);
    if (code != 0)
        return code;
    relay->input_held = true;
    for (uint32_t nic = 0; nic < relay->nic_count; nic++)
        rp_inputs_hold(relay->nics[nic].inputs);
    code = note_unread(relay, &unread);
    rp_relay_drain_guest(relay);
    return rp_relay_answer(relay, code);
}

int rp_relay_quiesce_input(struct rp_relay *relay, int64_t timeout_ns, uint64_t *unread_ret)
{
    const struct timespec step = {.tv_nsec = QUIESCE_STEP_NS};
    int64_t end_ns = rp_now_ns(CLOCK_MONOTONIC) + timeout_ns;
    for (;;) {
        int code = rp_relay_ask(relay);
        if (code != 0)
            return code;
        code = relay->input_held ? note_unread(relay, unread_ret) : -EINVAL;
        rp_relay_leave(relay);
        if (code != 0 || *unread_ret == 0 || rp_now_ns(CLOCK_MONOTONIC) >= end_ns)
            return code;
        nanosleep(&step, NULL);
    }
}

/* The number of the oldest input that a guest that stands still may not have; 0 when it has all. */
static int note_stop(struct rp_relay *relay, uint64_t *oldest_ret)
{
    int code = 0;
    uint64_t oldest;
    *oldest_ret = 0;
    for (uint32_t i = 0; i < relay->nic_count && code == 0; i++) {
        const struct rp_nic *nic = &relay->nics[i];
        code = rp_inputs_note_stop(nic->inputs, rp_port_unread_bytes(&nic->port), &oldest);
        if (code == 0 && oldest != 0 && (*oldest_ret == 0 || oldest < *oldest_ret))
            *oldest_ret = oldest;
    }
    return code;
}

static int mark(struct rp_relay *relay, uint64_t epoch, struct rp_mark *mark_ret)
{
    uint64_t oldest = 0;
    if (!relay->input_held)
        return -EINVAL;
    rp_relay_drain_guest(relay);
    int code = note_stop(relay, &oldest);
    if (code == 0)
        code =
            rp_hold_mark_barrier(relay->hold, epoch, &mark_ret->held_frames, &mark_ret->held_bytes);
    if (code != 0)
        return code;
    uint64_t last = oldest != 0 ? oldest - 1 : relay->newest_seq;
    mark_ret->input_seq = last > relay->base_seq ? last - relay->base_seq : 0;
    relay->full_said = relay->waiting_said = false;
    return 0;
}

int rp_relay_drain_and_mark(struct rp_relay *relay, uint64_t epoch, struct rp_mark *mark_ret)
{
    int code = rp_relay_ask(relay);
    return code != 0 ? code : rp_relay_answer(relay, mark(relay, epoch, mark_ret));
}

static void copy_frames(const struct rp_frame *const *frames, uint32_t count, struct rp_news *news,
                        uint64_t *used)
{
    for (uint32_t i = 0; i < count; i++) {
        if (news->frames == RP_NEWS_FRAMES || frames[i]->size > news->room - *used)
            return;
        memcpy(news->data + *used, frames[i]->data, frames[i]->size);
        *used += frames[i]->size;
        news->sizes[news->frames] = frames[i]->size;
        news->nics[news->frames++] = frames[i]->nic;
    }
}

void rp_relay_copy_doubtful(struct rp_relay *relay, struct rp_news *news)
{
    const struct rp_frame *frames[RP_NEWS_FRAMES];
    uint64_t used = 0;
    news->frames = 0;
    rp_relay_enter(relay);
    for (uint32_t nic = 0; nic < relay->nic_count; nic++) {
        uint32_t count = rp_inputs_doubtful(relay->nics[nic].inputs, frames, RP_NEWS_FRAMES);
        copy_frames(frames, count, news, &used);
    }
    rp_relay_leave(relay);
}

int rp_relay_resume_input(struct rp_relay *relay)
{
    int code = rp_relay_ask(relay);
    if (code != 0)
        return code;
    relay->input_held = false;
    for (uint16_t nic = 0; nic < relay->nic_count; nic++) {
        rp_inputs_resume(relay->nics[nic].inputs);
        rp_relay_deliver(relay, nic);
    }
    return rp_relay_answer(relay, 0);
}

uint64_t rp_relay_restart_inputs(struct rp_relay *relay)
{
    rp_relay_enter(relay);
    uint64_t newest = relay->base_seq = relay->newest_seq;
    rp_relay_leave(relay);
    return newest;
}

static bool names_our_nics(const struct rp_relay *relay, const struct rp_frames *frames)
{
    for (uint32_t i = 0; i < frames->count; i++)
        if (frames->nics[i] >= relay->nic_count || frames->sizes[i] > RP_FRAME_BYTES_MAX)
            return false;
    return true;
}

static int accept_all(struct rp_relay *relay, const struct rp_frames *frames)
{
    const uint8_t *data = frames->data;
    int code = 0;
    for (uint32_t i = 0; i < frames->count && code == 0; i++) {
        code = rp_relay_accept(relay, frames->nics[i], data, frames->sizes[i]);
        data += frames->sizes[i];
    }
    return code;
}

int rp_relay_replay(struct rp_relay *relay, const struct rp_frames *frames)
{
    rp_relay_enter(relay);
    int code = names_our_nics(relay, frames) ? accept_all(relay, frames) : -EINVAL;
    for (uint16_t nic = 0; nic < relay->nic_count; nic++)
        rp_relay_deliver(relay, nic);
    return rp_relay_answer(relay, code);
}

/* Outputs. */

int rp_relay_release(struct rp_relay *relay, uint64_t epoch, uint64_t *frames_ret)
{
    int code = rp_relay_ask(relay);
    return code != 0 ? code
                     : rp_relay_answer(relay, rp_hold_release(relay->hold, epoch, frames_ret));
}

int rp_relay_set_mode(struct rp_relay *relay, enum rp_mode mode, uint64_t *frames_ret)
{
    int code = rp_relay_ask(relay);
    if (code != 0)
        return code;
    *frames_ret = rp_hold_set_mode(relay->hold, mode);
    return rp_relay_answer(relay, 0);
}

uint64_t rp_relay_discard_output(struct rp_relay *relay)
{
    rp_relay_enter(relay);
    relay->full_said = false;
    uint64_t discarded = rp_hold_discard(relay->hold);
    rp_relay_leave(relay);
    return discarded;
}

int rp_relay_announce(struct rp_relay *relay, const struct rp_frames *frames)
{
    int code = rp_relay_ask(relay);
    if (code != 0)
        return code;
    const uint8_t *data = frames->data;
    int64_t now_ns = rp_now_ns(CLOCK_BOOTTIME);
    if (!names_our_nics(relay, frames))
        return rp_relay_answer(relay, -EINVAL);
    for (uint32_t i = 0; i < frames->count; i++) {
        rp_hold_inject(relay->hold, frames->nics[i], data, frames->sizes[i], now_ns);
        data += frames->sizes[i];
    }
    return rp_relay_answer(relay, 0);
}
