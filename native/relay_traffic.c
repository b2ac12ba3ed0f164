#include "relay_state.h"

#include <errno.h>

/* More than the kernel queues for one socket. */
#define DRAIN_FRAMES_MAX 4096

int64_t rp_now_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void say_if_waiting(struct rp_relay *relay)
{
    struct rp_hold_counters counters;
    rp_hold_count(relay->hold, &counters);
    if (counters.mode != RP_MODE_HOLD)
        return;
    relay->waiting_said = true;
    rp_mirror_say_waiting(&relay->mirror);
}

static void take_guests(struct rp_relay *relay, uint16_t nic, uint32_t count)
{
    int64_t now_ns = rp_now_ns(CLOCK_BOOTTIME);
    bool taken = false;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *data = relay->batch.data[i];
        uint32_t size = relay->batch.sizes[i];
        if (size == 0 || size > RP_FRAME_BYTES_MAX) {
            rp_hold_count_lost(relay->hold, 1);
            continue;
        }
        rp_book_learn(&relay->nics[nic].book, data, size);
        taken |= rp_hold_add(relay->hold, nic, data, size, now_ns);
    }
    if (taken && !relay->waiting_said)
        say_if_waiting(relay);
}

bool rp_relay_read_guest(struct rp_relay *relay, uint16_t nic)
{
    uint32_t count;
    int code = rp_port_recv(&relay->nics[nic].port, &relay->batch, &count);
    if (code != 0)
        rp_relay_fail(relay, RP_ACTION_RECV_GUEST, nic, code);
    take_guests(relay, nic, count);
    return count == RP_TURN_FRAMES_MAX;
}

void rp_relay_drain_guest(struct rp_relay *relay)
{
    for (uint16_t nic = 0; nic < relay->nic_count; nic++)
        for (uint32_t frames = 0; frames < DRAIN_FRAMES_MAX; frames += RP_TURN_FRAMES_MAX)
            if (!rp_relay_read_guest(relay, nic))
                break;
}

bool rp_relay_in_time(const struct rp_relay *relay)
{
    return rp_now_ns(CLOCK_BOOTTIME) < rp_deadline_load(relay->deadline);
}

static void set_muted(struct rp_relay *relay, bool muted)
{
    if (relay->muted != muted)
        rp_mirror_say_mute_turn(&relay->mirror);
    relay->muted = muted;
}

static void say_if_full(struct rp_relay *relay)
{
    if (relay->full_said || !rp_hold_is_full(relay->hold))
        return;
    relay->full_said = true;
    rp_mirror_say_full(&relay->mirror);
}

/* False when it stays, because the device is gone. */
static bool write_one(struct rp_relay *relay, const struct rp_frame *frame)
{
    bool written;
    int code = rp_tap_write(relay->nics[frame->nic].port.tap_fd, frame, &written);
    if (code != 0) {
        rp_relay_fail(relay, RP_ACTION_TAP, frame->nic, code);
        return false;
    }
    rp_hold_mark_left(relay->hold, written);
    return true;
}

void rp_relay_write_network(struct rp_relay *relay, uint32_t most)
{
    const struct rp_frame *frame;
    say_if_full(relay);
    if (relay->muted && rp_relay_in_time(relay))
        set_muted(relay, false);
    for (uint32_t i = 0; i < most; i++) {
        if ((frame = rp_hold_next_leaving(relay->hold)) == NULL)
            return;
        /* Before each: a freeze of this process between look and write lets out one frame. */
        if (!rp_relay_in_time(relay)) {
            set_muted(relay, true);
            return;
        }
        if (!write_one(relay, frame))
            return;
    }
}

int rp_relay_accept(struct rp_relay *relay, uint16_t nic, const void *data, uint32_t size)
{
    int code = rp_inputs_accept(relay->nics[nic].inputs, relay->newest_seq + 1, data, size);
    if (code != 0)
        return code;
    relay->newest_seq++;
    rp_mirror_add(&relay->mirror, relay->newest_seq, nic, data, size);
    return 0;
}

/* A frame without room gets no number, so the numbers have no gaps. */
static void accept_live(struct rp_relay *relay, uint16_t nic, const uint8_t *data, uint32_t size)
{
    if (!rp_inputs_has_room(relay->nics[nic].inputs, size) ||
        rp_relay_accept(relay, nic, data, size) != 0)
        relay->no_room_frames++;
}

void rp_relay_read_network(struct rp_relay *relay, uint16_t nic)
{
    uint8_t *data = relay->batch.data[0];
    uint32_t size;
    for (uint32_t i = 0; i < RP_TURN_FRAMES_MAX; i++) {
        int code = rp_tap_read(relay->nics[nic].port.tap_fd, data, &size);
        if (code != 0)
            rp_relay_fail(relay, RP_ACTION_TAP, nic, code);
        if (size == 0)
            break;
        accept_live(relay, nic, data, size);
    }
    rp_relay_deliver(relay, nic);
}

/* Give some; true when there may be more to give. */
static bool deliver_some(struct rp_relay *relay, uint16_t index)
{
    const struct rp_frame *frames[RP_TURN_FRAMES_MAX];
    struct rp_nic *nic = &relay->nics[index];
    uint32_t given, count = rp_inputs_peek(nic->inputs, frames, RP_TURN_FRAMES_MAX);
    if (count == 0)
        return false;
    int code = rp_port_send(&nic->port, frames, count, &given);
    for (uint32_t i = 0; i < given; i++)
        rp_inputs_mark_given(nic->inputs, rp_costs_find(&relay->costs, frames[i]->size));
    if (rp_inputs_wants_look(nic->inputs))
        rp_inputs_prune(nic->inputs, rp_port_unread_bytes(&nic->port));
    if (code == -EMSGSIZE)
        rp_inputs_mark_refused(nic->inputs);
    else if (code != 0 && code != -EAGAIN && code != -ENOTCONN)
        rp_relay_fail(relay, RP_ACTION_SEND_GUEST, index, code);
    return code == 0 || code == -EMSGSIZE;
}

void rp_relay_deliver(struct rp_relay *relay, uint16_t nic)
{
    while (deliver_some(relay, nic))
        ;
}

bool rp_relay_wants_room(const struct rp_nic *nic)
{
    const struct rp_frame *frame;
    return rp_inputs_peek(nic->inputs, &frame, 1) > 0;
}
