#include "fast_state.h"

#include <string.h>

/* The newest entry's frame as the guest gets it, behind it when that is another. */
static void shift_newest(struct rp_fast_path *path)
{
    struct rp_fast_entry *entry = &path->entries[path->outcome.entry_count - 1];
    uint8_t *shifted = fast_room(path);
    if (!rp_shift_table_to_guest(path->loan.shifts, entry->data, entry->size, entry->nic, shifted))
        return;
    entry->given = shifted;
    path->arena_used += entry->size;
}

static void take_inputs(struct rp_fast_path *path)
{
    const struct rp_message *message = &path->message;
    for (uint32_t i = 0; i < message->row_count; i++) {
        const struct rp_message_row *row = &message->rows[i];
        memcpy(fast_room(path), row->data, row->size);
        fast_add(path, false, row->nic, row->size, ++path->numbers.newest_seq);
        shift_newest(path);
    }
}

static bool names_our_nics(const struct rp_fast_path *path)
{
    const struct rp_message *message = &path->message;
    for (uint32_t i = 0; i < message->row_count; i++)
        if (message->rows[i].nic >= path->nic_count)
            return false;
    return true;
}

int fast_secondary_message(struct rp_fast_path *path, const uint8_t *data, uint32_t size)
{
    const struct rp_message *message = &path->message;
    enum rp_message_kind kind = rp_message_read(data, size, &path->message);
    if (kind != RP_MESSAGE_INPUT_BATCH || !fast_is_next(path) || !names_our_nics(path) ||
        message->seq != path->numbers.newest_seq + 1)
        return RP_FAST_OTHER;
    /* Each may be there twice, once shifted. */
    if (!fast_has_room(path, message->row_count, 2 * (size_t)size))
        return RP_FAST_FULL;
    uint32_t first_entry = path->outcome.entry_count;
    path->numbers.taken++;
    take_inputs(path);
    rp_stream_take(&path->stream, size);
    fast_give(path);
    if (path->numbers.confirm_at_ns == 0)
        path->numbers.confirm_at_ns = path->entries[first_entry].at_ns + path->loan.confirm_ns;
    return FAST_GO_ON;
}

int fast_secondary_guest(struct rp_fast_path *path, uint32_t nic)
{
    uint32_t size, first_entry = path->outcome.entry_count;
    int end = FAST_GO_ON;
    for (uint32_t i = 0; i < FAST_TURN_FRAMES_MAX && end == FAST_GO_ON; i++) {
        if (!fast_has_room(path, 1, 2 * (size_t)FAST_FRAME_BYTES_MAX + 1))
            end = RP_FAST_FULL;
        else if (!fast_receive_guest(path, nic, &size, &end))
            break;
        else
            fast_add(path, true, nic, size, 0);
    }
    if (path->outcome.entry_count == first_entry)
        return end;
    path->numbers.confirm_at_ns = 0;
    fast_send_entries(path, RP_MESSAGE_OUTPUT_BATCH, first_entry);
    for (uint32_t i = first_entry; i < path->outcome.entry_count; i++) {
        const struct rp_fast_entry *entry = &path->entries[i];
        rp_shift_table_from_guest(path->loan.shifts, entry->data, entry->size, entry->nic,
                                  fast_room(path));
    }
    return end;
}

int64_t fast_secondary_time_ns(const struct rp_fast_path *path)
{
    return path->numbers.confirm_at_ns != 0 ? path->numbers.confirm_at_ns : INT64_MAX;
}

/* Nothing was said with which the confirmation could have gone. */
int fast_secondary_pass_time(struct rp_fast_path *path)
{
    path->numbers.confirm_at_ns = 0;
    path->message.kind = RP_MESSAGE_INPUTS_LOGGED;
    path->message.seq = path->numbers.newest_seq;
    fast_send(path);
    return FAST_GO_ON;
}
