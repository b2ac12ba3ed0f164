#include "fast_state.h"
#include "relay.h"

#include <errno.h>
#include <unistd.h>

/* replicator/engine/output.py has the first, replicator/engine/compare/patience.py the second. */
#define FRAME_OVERHEAD_BYTES 128
#define PATIENCE_FORGET_SHIFT 6
#define PATIENCE_TIMES 4

static bool in_time(const struct rp_fast_path *path)
{
    return fast_now_ns() < rp_deadline_load(path->loan.deadline);
}

/* A frame that is held, carried or of this run. */
struct held {
    const uint8_t *data;
    uint32_t size;
    uint16_t nic;
    int64_t at_ns;
    bool *is_done;
};

static bool find_carried(struct rp_fast_path *path, uint64_t number, struct held *found_ret)
{
    uint32_t low = 0, high = path->loan.held_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (path->loan.held[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == path->loan.held_count || path->loan.held[low].number != number)
        return false;
    struct rp_fast_carried *one = &path->loan.held[low];
    *found_ret = (struct held){one->data, one->size, one->nic, one->at_ns, &one->is_done};
    return true;
}

static bool find_held(struct rp_fast_path *path, uint64_t number, struct held *found_ret)
{
    uint64_t index = number - path->first_id;
    if (number < path->first_id)
        return find_carried(path, number, found_ret);
    if (index >= path->output_count)
        return false;
    struct rp_fast_entry *one = &path->entries[path->output_entry[index]];
    *found_ret = (struct held){one->data, one->size, one->nic, one->at_ns, &one->is_done};
    return true;
}

/* Something about that frame or this moment, and not about the device. */
static bool says_not_now(int error)
{
    return error == EAGAIN || error == EINVAL || error == EIO || error == ENOBUFS ||
           error == ENOMEM || error == EMSGSIZE || error == EINTR;
}

static void note_wait(struct rp_fast_path *path, int64_t wait_ns)
{
    int64_t *longest = &path->numbers.longest_wait_ns;
    int64_t faded = *longest - (*longest >> PATIENCE_FORGET_SHIFT);
    *longest = wait_ns > faded ? wait_ns : faded;
}

/* Write a frame that may leave. False when it is for others to write, or to see that they cannot.
 */
static bool leave(struct rp_fast_path *path, uint64_t number, int64_t now_ns)
{
    struct held one;
    /* Before each: a freeze of this process between look and write lets out one frame. */
    if (!find_held(path, number, &one) || !in_time(path))
        return false;
    ssize_t size = write(path->nics[one.nic].tap_fd, one.data, one.size);
    if (size < 0 && !says_not_now(errno))
        return false;
    *one.is_done = true;
    path->held_cost -= one.size + FRAME_OVERHEAD_BYTES;
    note_wait(path, now_ns - one.at_ns);
    if (size < 0) {
        path->outcome.unwritten_frames++;
    } else {
        path->outcome.left_frames++;
        path->outcome.left_bytes += one.size;
    }
    return true;
}

/* What has come of the last call of the steady flows. */
static int carry_out(struct rp_fast_path *path, int64_t now_ns)
{
    const struct rp_steady_report *report = rp_steady_report(path->loan.steady);
    struct rp_fast_outcome *outcome = &path->outcome;
    outcome->equal_count += report->equal_count;
    outcome->kept_change += report->kept_change;
    path->held_cost += report->kept_change;
    for (uint32_t i = 0; i < report->released_count; i++) {
        if (leave(path, report->released[i], now_ns))
            continue;
        outcome->released = report->released + i;
        outcome->released_count = report->released_count - i;
        return RP_FAST_OTHER;
    }
    return path->held_cost > path->loan.room_bytes ? RP_FAST_FULL : FAST_GO_ON;
}

static int hand_over(struct rp_fast_path *path, enum rp_fast_end end, uint32_t nic, uint32_t size)
{
    path->outcome.item_nic = (uint16_t)nic;
    path->outcome.item = fast_room(path);
    path->outcome.item_bytes = size;
    return end;
}

/* The guest has said what lies in the room. */
static int hear_output(struct rp_fast_path *path, uint32_t nic, uint32_t size)
{
    struct rp_fast_numbers *numbers = &path->numbers;
    const uint8_t *data = fast_room(path);
    int64_t now_ns = fast_now_ns();
    numbers->turn++;
    if (!rp_steady_say_primary(path->loan.steady, data, size, nic, numbers->newest_id + 1,
                               numbers->newest_seq, numbers->inputs_upto, numbers->turn, now_ns))
        return hand_over(path, RP_FAST_GUEST, nic, size);
    path->output_entry[path->output_count++] = path->outcome.entry_count;
    fast_add(path, true, nic, size, ++numbers->newest_id);
    path->held_cost += size + FRAME_OVERHEAD_BYTES;
    return carry_out(path, now_ns);
}

int fast_primary_guest(struct rp_fast_path *path, uint32_t nic)
{
    uint32_t size;
    int end = FAST_GO_ON;
    for (uint32_t i = 0; i < FAST_TURN_FRAMES_MAX && end == FAST_GO_ON; i++) {
        if (!fast_has_room(path, 1, FAST_FRAME_BYTES_MAX + 1))
            return RP_FAST_FULL;
        if (!fast_receive_guest(path, nic, &size, &end))
            return end;
        end = hear_output(path, nic, size);
    }
    return end;
}

/* Read and number what is ordinary. */
static int read_inputs(struct rp_fast_path *path, uint32_t nic)
{
    for (uint32_t i = 0; i < FAST_TURN_FRAMES_MAX; i++) {
        if (!fast_has_room(path, 1, FAST_FRAME_BYTES_MAX + 1))
            return RP_FAST_FULL;
        const uint8_t *data = fast_room(path);
        uint64_t seq = path->numbers.newest_seq + 1;
        ssize_t size = read(path->nics[nic].tap_fd, fast_room(path), FAST_FRAME_BYTES_MAX);
        if (size <= 0)
            return size == 0 || says_not_now(errno) ? FAST_GO_ON : RP_FAST_OTHER;
        if (!rp_steady_note_input(path->loan.steady, data, (uint32_t)size, nic, seq))
            return hand_over(path, RP_FAST_NETWORK, nic, (uint32_t)size);
        fast_add(path, false, nic, (uint32_t)size, seq);
        path->numbers.newest_seq = seq;
    }
    return FAST_GO_ON;
}

int fast_primary_network(struct rp_fast_path *path, uint32_t nic)
{
    uint32_t first_entry = path->outcome.entry_count;
    int end = read_inputs(path, nic);
    if (path->outcome.entry_count == first_entry)
        return end;
    /* The secondary has them before the guest here does. */
    fast_send_entries(path, RP_MESSAGE_INPUT_BATCH, first_entry);
    fast_give(path);
    int64_t late_ns = path->entries[first_entry].at_ns + path->loan.after_input_ns;
    if (late_ns < path->until_ns)
        path->until_ns = late_ns;
    return end;
}

static int hear_logged(struct rp_fast_path *path, uint64_t upto)
{
    if (upto <= path->numbers.inputs_upto)
        return FAST_GO_ON;
    path->numbers.inputs_upto = upto;
    if (rp_steady_report(path->loan.steady)->unconfirmed == 0)
        return FAST_GO_ON;
    int64_t now_ns = fast_now_ns();
    rp_steady_confirm(path->loan.steady, upto, UINT64_MAX, now_ns);
    return carry_out(path, now_ns);
}

/* The first frames of an output-batch, until one of them ends the run. */
static int hear_rows(struct rp_fast_path *path, uint32_t *heard)
{
    const struct rp_message *message = &path->message;
    int end = FAST_GO_ON;
    for (*heard = 0; *heard < message->row_count && end == FAST_GO_ON; ++*heard) {
        const struct rp_message_row *row = &message->rows[*heard];
        int64_t now_ns = fast_now_ns();
        path->numbers.turn++;
        if (!rp_steady_say_secondary(path->loan.steady, row->data, row->size, row->nic,
                                     path->numbers.inputs_upto, path->numbers.turn, now_ns))
            return RP_FAST_ROWS;
        end = carry_out(path, now_ns);
    }
    return end;
}

static int hear_batch(struct rp_fast_path *path, const uint8_t *data, uint32_t size)
{
    uint32_t heard = 0;
    int end = hear_logged(path, path->message.seq);
    if (end == FAST_GO_ON)
        end = hear_rows(path, &heard);
    if (heard == path->message.row_count)
        return end;
    path->outcome.item = data;
    path->outcome.item_bytes = size;
    path->outcome.rows_done = heard;
    return RP_FAST_ROWS;
}

int fast_primary_message(struct rp_fast_path *path, const uint8_t *data, uint32_t size)
{
    struct rp_message *message = &path->message;
    enum rp_message_kind kind = rp_message_read(data, size, message);
    bool is_ours = kind == RP_MESSAGE_INPUTS_LOGGED ||
                   (kind == RP_MESSAGE_OUTPUT_BATCH && message->epoch == path->numbers.epoch);
    bool confirms = is_ours && message->seq > path->numbers.inputs_upto;
    if (!is_ours || !fast_is_next(path) || (confirms && path->loan.others_unconfirmed))
        return RP_FAST_OTHER;
    path->numbers.taken++;
    rp_stream_take(&path->stream, size);
    return kind == RP_MESSAGE_INPUTS_LOGGED ? hear_logged(path, message->seq)
                                            : hear_batch(path, data, size);
}

int64_t fast_primary_time_ns(const struct rp_fast_path *path)
{
    return rp_steady_report(path->loan.steady)->waiting > 0 ? path->loan.tick_ns : INT64_MAX;
}

static int64_t patience_ns(const struct rp_fast_path *path)
{
    int64_t bound_ns = PATIENCE_TIMES * path->numbers.longest_wait_ns;
    if (bound_ns < path->loan.patience_min_ns)
        return path->loan.patience_min_ns;
    return bound_ns < path->loan.patience_max_ns ? bound_ns : path->loan.patience_max_ns;
}

int fast_primary_pass_time(struct rp_fast_path *path, int64_t now_ns)
{
    struct rp_steady_state late;
    if (rp_steady_find_late(path->loan.steady, now_ns, patience_ns(path), &late))
        return RP_FAST_TIME;
    path->loan.tick_ns = now_ns + path->loan.tick_every_ns;
    return FAST_GO_ON;
}
