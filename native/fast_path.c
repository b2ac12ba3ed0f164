#include "fast_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>

#define NS_PER_MS INT64_C(1000000)
#define EVENTS_MAX 16
#define WAIT_MS_MAX 1000
/* Reserved, and taken from the system where frames come to lie. */
#define ARENA_BYTES ((size_t)8 << 20)
/* Of inputs that wait for the guest; the bound of the relay is twice that. */
#define WAITING_BYTES_MAX (UINT64_C(2) << 20)

int rp_fast_create(uint32_t nics, struct rp_fast_path **path_ret)
{
    if (nics > FAST_NICS_MAX)
        return -EINVAL;
    struct rp_fast_path *path = calloc(1, sizeof(*path));
    if (path == NULL)
        return -ENOMEM;
    path->nic_count = nics;
    path->arena_bytes = ARENA_BYTES;
    path->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (path->arena == MAP_FAILED) {
        free(path);
        return -ENOMEM;
    }
    *path_ret = path;
    return 0;
}

void rp_fast_destroy(struct rp_fast_path *path)
{
    if (path == NULL)
        return;
    munmap(path->arena, path->arena_bytes);
    free(path);
}

int rp_fast_set_nic(struct rp_fast_path *path, uint32_t nic, int socket_fd, int tap_fd)
{
    if (nic >= path->nic_count)
        return -EINVAL;
    path->nics[nic] = (struct fast_nic){.socket_fd = socket_fd, .tap_fd = tap_fd};
    return 0;
}

int64_t fast_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static bool is_primary(const struct rp_fast_path *path) { return path->loan.steady != NULL; }

static void begin(struct rp_fast_path *path, const struct rp_fast_loan *loan,
                  const struct rp_fast_numbers *numbers)
{
    path->loan = *loan;
    path->numbers = *numbers;
    path->outcome = (struct rp_fast_outcome){.entries = path->entries};
    path->until_ns = loan->until_ns;
    path->first_waiting = 0;
    path->waiting_bytes = 0;
    path->is_stuck = false;
    path->held_cost = 0;
    path->first_id = numbers->newest_id + 1;
    path->output_count = 0;
    path->arena_used = 0;
    for (uint32_t nic = 0; nic < path->nic_count; nic++)
        path->nics[nic].is_full = path->nics[nic].is_polled = false;
    for (uint32_t i = 0; i < loan->waiting_count; i++)
        path->waiting_bytes += loan->waiting[i].size;
    rp_stream_begin(&path->stream, loan->line_fd, loan->rest, loan->rest_bytes);
}

static const struct rp_fast_outcome *finish(struct rp_fast_path *path, int end)
{
    struct rp_fast_outcome *outcome = &path->outcome;
    outcome->end = (enum rp_fast_end)end;
    outcome->numbers = path->numbers;
    outcome->rest = path->stream.in + path->stream.in_at;
    outcome->rest_bytes = path->stream.in_end - path->stream.in_at;
    outcome->unsent = path->stream.out + path->stream.out_at;
    outcome->unsent_bytes = path->stream.out_end - path->stream.out_at;
    return outcome;
}

/* How a step ends by what it found on its way. */
static int weigh(const struct rp_fast_path *path, int end)
{
    if (end != FAST_GO_ON)
        return end;
    if (path->outcome.line_error != 0)
        return RP_FAST_LOST;
    if (path->is_stuck || path->stream.out_end > 0)
        return RP_FAST_OTHER;
    return path->waiting_bytes > WAITING_BYTES_MAX ? RP_FAST_FULL : FAST_GO_ON;
}

static int hear_guest(struct rp_fast_path *path, uint32_t nic)
{
    return is_primary(path) ? fast_primary_guest(path, nic) : fast_secondary_guest(path, nic);
}

static int hear_message(struct rp_fast_path *path, const uint8_t *data, uint32_t size)
{
    return is_primary(path) ? fast_primary_message(path, data, size)
                            : fast_secondary_message(path, data, size);
}

static int hear_channel(struct rp_fast_path *path)
{
    const uint8_t *data;
    uint32_t size;
    int code = rp_stream_receive(&path->stream), end = FAST_GO_ON;
    if (code != 0)
        return code == -EAGAIN ? FAST_GO_ON : RP_FAST_OTHER;
    while (end == FAST_GO_ON && rp_stream_peek(&path->stream, &data, &size))
        end = weigh(path, hear_message(path, data, size));
    if (end == FAST_GO_ON && rp_stream_is_broken(&path->stream))
        return RP_FAST_OTHER;
    return end;
}

static int serve_guest(struct rp_fast_path *path, uint32_t nic, uint32_t events)
{
    if (events & EPOLLOUT) {
        path->nics[nic].is_full = false;
        fast_give(path);
    }
    return events & EPOLLIN ? hear_guest(path, nic) : FAST_GO_ON;
}

static int serve(struct rp_fast_path *path, const struct epoll_event *event)
{
    int fd = event->data.fd;
    if (fd == path->loan.wake_fd)
        return RP_FAST_WOKEN;
    if (event->events & ~(uint32_t)(EPOLLIN | EPOLLOUT))
        return RP_FAST_OTHER;
    if (fd == path->loan.channel_fd)
        return hear_channel(path);
    for (uint32_t nic = 0; nic < path->nic_count; nic++) {
        if (fd == path->nics[nic].socket_fd)
            return serve_guest(path, nic, event->events);
        if (fd == path->nics[nic].tap_fd && is_primary(path))
            return fast_primary_network(path, nic);
    }
    return RP_FAST_OTHER;
}

/* Until one ends the run: whoever goes on is told of the others again. */
static int serve_all(struct rp_fast_path *path, const struct epoll_event *events, int count)
{
    int end = FAST_GO_ON;
    for (int i = 0; i < count && end == FAST_GO_ON; i++)
        end = weigh(path, serve(path, &events[i]));
    return end;
}

static int64_t next_time_ns(const struct rp_fast_path *path)
{
    int64_t next_ns = is_primary(path) ? fast_primary_time_ns(path) : fast_secondary_time_ns(path);
    return next_ns < path->until_ns ? next_ns : path->until_ns;
}

/* Do what is due, if anything is. */
static int pass_time(struct rp_fast_path *path)
{
    int64_t now_ns = fast_now_ns();
    if (now_ns >= path->until_ns)
        return RP_FAST_TIME;
    if (now_ns < next_time_ns(path))
        return FAST_GO_ON;
    return is_primary(path) ? fast_primary_pass_time(path, now_ns)
                            : weigh(path, fast_secondary_pass_time(path));
}

static int find_patience_ms(const struct rp_fast_path *path)
{
    int64_t left_ns = next_time_ns(path) - fast_now_ns();
    if (left_ns <= 0)
        return 0;
    return left_ns < WAIT_MS_MAX * NS_PER_MS ? (int)((left_ns + NS_PER_MS - 1) / NS_PER_MS)
                                             : WAIT_MS_MAX;
}

/* Wait and serve; then look at the time, so that what has come is served however late it is. */
static int take_turn(struct rp_fast_path *path)
{
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(path->loan.poll_fd, events, EVENTS_MAX, find_patience_ms(path));
    if (count < 0)
        return errno == EINTR ? FAST_GO_ON : RP_FAST_OTHER;
    int end = serve_all(path, events, count);
    if (end != FAST_GO_ON)
        return end;
    return fast_poll_for_room(path, false) == 0 ? pass_time(path) : RP_FAST_OTHER;
}

const struct rp_fast_outcome *rp_fast_run(struct rp_fast_path *path,
                                          const struct rp_fast_loan *loan,
                                          const struct rp_fast_numbers *numbers)
{
    begin(path, loan, numbers);
    fast_give(path);
    int end = weigh(path, fast_poll_for_room(path, false) == 0 ? FAST_GO_ON : RP_FAST_OTHER);
    while (end == FAST_GO_ON)
        end = take_turn(path);
    fast_poll_for_room(path, true);
    return finish(path, end);
}
