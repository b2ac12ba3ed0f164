#include "fast_state.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

bool fast_has_room(const struct rp_fast_path *path, uint32_t entries, size_t bytes)
{
    return path->outcome.entry_count + entries <= FAST_ENTRIES_MAX &&
           path->arena_used + bytes <= path->arena_bytes;
}

uint8_t *fast_room(const struct rp_fast_path *path) { return path->arena + path->arena_used; }

struct rp_fast_entry *fast_add(struct rp_fast_path *path, bool is_output, uint32_t nic,
                               uint32_t size, uint64_t number)
{
    struct rp_fast_entry *entry = &path->entries[path->outcome.entry_count++];
    const uint8_t *data = fast_room(path);
    *entry = (struct rp_fast_entry){
        .is_output = is_output,
        .nic = (uint16_t)nic,
        .size = size,
        .number = number,
        .at_ns = fast_now_ns(),
        .data = data,
        .given = data,
    };
    path->arena_used += size;
    if (!is_output)
        path->waiting_bytes += size;
    return entry;
}

bool fast_receive_guest(struct rp_fast_path *path, uint32_t nic, uint32_t *size_ret, int *end_ret)
{
    int fd = path->nics[nic].socket_fd;
    for (;;) {
        ssize_t size = recv(fd, fast_room(path), FAST_FRAME_BYTES_MAX + 1, MSG_DONTWAIT);
        if (size < 0) {
            *end_ret = errno == EAGAIN || errno == EINTR ? FAST_GO_ON : RP_FAST_OTHER;
            return false;
        }
        *size_ret = (uint32_t)size;
        if (size > 0 && size <= FAST_FRAME_BYTES_MAX)
            return true;
        path->outcome.lost_frames++;
    }
}

/* An input that may wait, carried or of this run. */
struct waiting {
    const uint8_t *data;
    uint32_t size;
    uint16_t nic;
    bool *is_done;
};

static bool find_waiting(struct rp_fast_path *path, uint32_t index, struct waiting *found_ret)
{
    if (index < path->loan.waiting_count) {
        struct rp_fast_carried *one = &path->loan.waiting[index];
        *found_ret = (struct waiting){one->data, one->size, one->nic, &one->is_done};
        return !one->is_done;
    }
    struct rp_fast_entry *one = &path->entries[index - path->loan.waiting_count];
    *found_ret = (struct waiting){one->given, one->size, one->nic, &one->is_done};
    return !one->is_output && !one->is_done;
}

static void give_one(struct rp_fast_path *path, const struct waiting *one)
{
    struct fast_nic *nic = &path->nics[one->nic];
    ssize_t sent = send(nic->socket_fd, one->data, one->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) {
        *one->is_done = true;
        path->waiting_bytes -= one->size;
    } else if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) {
        nic->is_full = true;
    } else {
        path->is_stuck = true;
    }
}

void fast_give(struct rp_fast_path *path)
{
    uint32_t end = path->loan.waiting_count + path->outcome.entry_count, first = end;
    struct waiting one;
    for (uint32_t i = path->first_waiting; i < end && !path->is_stuck; i++) {
        if (!find_waiting(path, i, &one))
            continue;
        if (!path->nics[one.nic].is_full)
            give_one(path, &one);
        if (!*one.is_done && i < first)
            first = i;
    }
    if (!path->is_stuck)
        path->first_waiting = first;
}

int fast_poll_for_room(struct rp_fast_path *path, bool is_over)
{
    for (uint32_t i = 0; i < path->nic_count; i++) {
        struct fast_nic *nic = &path->nics[i];
        bool wanted = nic->is_full && !is_over;
        if (wanted == nic->is_polled)
            continue;
        struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0),
                                    .data.fd = nic->socket_fd};
        if (epoll_ctl(path->loan.poll_fd, EPOLL_CTL_MOD, nic->socket_fd, &event) != 0)
            return -errno;
        nic->is_polled = wanted;
    }
    return 0;
}

bool fast_is_next(const struct rp_fast_path *path)
{
    return path->message.number == path->numbers.taken + 1 &&
           memcmp(path->message.session, path->loan.session, sizeof(path->loan.session)) == 0;
}

void fast_send(struct rp_fast_path *path)
{
    struct rp_message *message = &path->message;
    uint8_t *room = rp_stream_room(&path->stream);
    memcpy(message->session, path->loan.session, sizeof(message->session));
    message->number = ++path->numbers.sent;
    uint32_t size = room == NULL ? 0 : rp_message_write(message, room, RP_RECORD_BYTES_MAX);
    int code = size == 0 ? -ENOBUFS : rp_stream_send(&path->stream, size);
    if (path->outcome.line_error == 0)
        path->outcome.line_error = -code;
}

/* The entries from this one on that make one batch; returns how many. */
static uint32_t fill_rows(struct rp_fast_path *path, uint32_t first_entry)
{
    struct rp_message *message = &path->message;
    size_t bytes = 0;
    message->row_count = 0;
    for (uint32_t i = first_entry; i < path->outcome.entry_count; i++) {
        const struct rp_fast_entry *entry = &path->entries[i];
        bytes += entry->size;
        if (message->row_count > 0 && bytes > FAST_BATCH_BYTES_MAX)
            break;
        message->rows[message->row_count++] =
            (struct rp_message_row){entry->nic, entry->size, entry->data};
    }
    return message->row_count;
}

void fast_send_entries(struct rp_fast_path *path, enum rp_message_kind kind, uint32_t first_entry)
{
    struct rp_message *message = &path->message;
    for (uint32_t at = first_entry; at < path->outcome.entry_count;) {
        message->kind = kind;
        message->epoch = path->numbers.epoch;
        message->seq =
            kind == RP_MESSAGE_INPUT_BATCH ? path->entries[at].number : path->numbers.newest_seq;
        at += fill_rows(path, at);
        fast_send(path);
    }
}
