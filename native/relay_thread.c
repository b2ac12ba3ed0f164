#include "relay_state.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define NS_PER_MS INT64_C(1000000)
/* How often to look for another process at the guest's path, and while nobody is there. */
#define LOOK_MS 100
#define LOOK_ABSENT_MS 10
/* How often a mute relay looks whether its deadline was moved. */
#define LOOK_MUTED_MS 1
#define EVENTS_MAX 16

/* What an event is about: the wake descriptor, or a side of a NIC. */
#define ABOUT_WAKE UINT64_MAX
#define SIDE_TAP 1

static int watch(struct rp_relay *relay, int fd, uint64_t about)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = about};
    return epoll_ctl(relay->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

int rp_relay_open_poll(struct rp_relay *relay)
{
    relay->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (relay->epoll_fd < 0)
        return -errno;
    relay->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (relay->wake_fd < 0)
        return -errno;
    int code = watch(relay, relay->wake_fd, ABOUT_WAKE);
    for (uint64_t nic = 0; nic < relay->nic_count && code == 0; nic++) {
        code = watch(relay, relay->nics[nic].port.socket_fd, nic << 1);
        if (code == 0)
            code = watch(relay, relay->nics[nic].port.tap_fd, nic << 1 | SIDE_TAP);
    }
    return code;
}

void rp_relay_close_poll(struct rp_relay *relay)
{
    if (relay->epoll_fd >= 0)
        close(relay->epoll_fd);
    if (relay->wake_fd >= 0)
        close(relay->wake_fd);
    relay->epoll_fd = -1;
    relay->wake_fd = -1;
}

static void serve(struct rp_relay *relay, uint64_t about)
{
    eventfd_t ignored;
    if (about == ABOUT_WAKE) {
        eventfd_read(relay->wake_fd, &ignored);
        return;
    }
    uint16_t nic = (uint16_t)(about >> 1);
    if (about & SIDE_TAP) {
        rp_relay_read_network(relay, nic);
        return;
    }
    rp_relay_read_guest(relay, nic);
    if (relay->nics[nic].polled_for_room)
        rp_relay_deliver(relay, nic);
}

/* Connect to a process that came, or to one that took a former one's place. */
static void look_for_guest(struct rp_relay *relay, uint16_t index)
{
    struct rp_nic *nic = &relay->nics[index];
    if (nic->port.connected && !rp_port_has_new_peer(&nic->port))
        return;
    rp_relay_read_guest(relay, index);
    rp_inputs_forget_given(nic->inputs);
    int code = rp_port_connect(&nic->port);
    if (code != 0)
        rp_relay_fail(relay, RP_ACTION_CONNECT_GUEST, index, code);
    rp_relay_deliver(relay, index);
}

static bool all_connected(const struct rp_relay *relay)
{
    for (uint32_t nic = 0; nic < relay->nic_count; nic++)
        if (!relay->nics[nic].port.connected)
            return false;
    return true;
}

static int look_ms(const struct rp_relay *relay)
{
    return all_connected(relay) ? LOOK_MS : LOOK_ABSENT_MS;
}

static void look_for_guests(struct rp_relay *relay)
{
    int64_t now_ns = rp_now_ns(CLOCK_MONOTONIC);
    if (now_ns < relay->look_at_ns)
        return;
    for (uint16_t nic = 0; nic < relay->nic_count; nic++)
        look_for_guest(relay, nic);
    relay->look_at_ns = now_ns + look_ms(relay) * NS_PER_MS;
}

/* Ask for room at the guest's side exactly while frames wait for it. */
static void poll_for_room(struct rp_relay *relay, uint16_t index)
{
    struct rp_nic *nic = &relay->nics[index];
    bool wanted = nic->port.connected && rp_relay_wants_room(nic);
    if (wanted == nic->polled_for_room)
        return;
    struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0),
                                .data.u64 = (uint64_t)index << 1};
    if (epoll_ctl(relay->epoll_fd, EPOLL_CTL_MOD, nic->port.socket_fd, &event) != 0)
        rp_relay_fail(relay, RP_ACTION_WAIT, index, -errno);
    nic->polled_for_room = wanted;
}

/* How long to wait for a descriptor. */
static int find_patience_ms(const struct rp_relay *relay)
{
    bool leaving = rp_hold_next_leaving(relay->hold) != NULL;
    if (leaving && (!relay->muted || rp_relay_in_time(relay)))
        return 0;
    return relay->muted ? LOOK_MUTED_MS : look_ms(relay);
}

static void serve_all(struct rp_relay *relay, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++)
        serve(relay, events[i].data.u64);
    rp_relay_write_network(relay, RP_TURN_FRAMES_MAX * (relay->nic_count + 1));
    look_for_guests(relay);
    for (uint16_t nic = 0; nic < relay->nic_count; nic++)
        poll_for_room(relay, nic);
    relay->patience_ms = find_patience_ms(relay);
}

/* Wait, then one turn for each side that has something. False when the relay shall end. */
static bool take_turn(struct rp_relay *relay)
{
    struct epoll_event events[EVENTS_MAX];
    int count = epoll_wait(relay->epoll_fd, events, EVENTS_MAX, relay->patience_ms);
    int error = count < 0 ? errno : 0;
    rp_relay_enter(relay);
    if (error != 0 && error != EINTR)
        rp_relay_fail(relay, RP_ACTION_WAIT, 0, -error);
    bool goes_on = !relay->stopping && relay->failure.code == 0;
    if (goes_on)
        serve_all(relay, events, count);
    rp_relay_leave(relay);
    rp_mirror_tell(&relay->mirror);
    return goes_on;
}

void *rp_relay_run(void *argument)
{
    struct rp_relay *relay = argument;
    while (take_turn(relay))
        ;
    rp_mirror_end(&relay->mirror);
    rp_mirror_tell(&relay->mirror);
    return NULL;
}
