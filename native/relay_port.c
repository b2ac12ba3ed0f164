#define _GNU_SOURCE
#include "relay_port.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int rp_port_init(struct rp_port *port, int socket_fd, int tap_fd, const char *guest_path)
{
    size_t length = strlen(guest_path);
    if (length >= sizeof(port->guest.sun_path))
        return -ENAMETOOLONG;
    *port = (struct rp_port){.socket_fd = socket_fd, .tap_fd = tap_fd};
    port->guest.sun_family = AF_UNIX;
    memcpy(port->guest.sun_path, guest_path, length);
    return 0;
}

static bool find_peer(const struct rp_port *port, struct stat *found)
{
    return stat(port->guest.sun_path, found) == 0 && S_ISSOCK(found->st_mode);
}

/* Inode numbers come again, times do not. */
static bool is_peer(const struct rp_port *port, const struct stat *found)
{
    return port->connected && port->device == found->st_dev && port->inode == found->st_ino &&
           port->changed_at.tv_sec == found->st_ctim.tv_sec &&
           port->changed_at.tv_nsec == found->st_ctim.tv_nsec;
}

bool rp_port_has_new_peer(const struct rp_port *port)
{
    struct stat found;
    return find_peer(port, &found) && !is_peer(port, &found);
}

static bool says_gone(int error)
{
    return error == ECONNREFUSED || error == ENOTCONN || error == ENOENT || error == ECONNRESET ||
           error == EPERM;
}

int rp_port_connect(struct rp_port *port)
{
    struct stat found;
    port->connected = false;
    if (!find_peer(port, &found))
        return 0;
    if (connect(port->socket_fd, (const struct sockaddr *)&port->guest, sizeof(port->guest)) != 0)
        return says_gone(errno) ? 0 : -errno;
    port->connected = true;
    port->device = found.st_dev;
    port->inode = found.st_ino;
    port->changed_at = found.st_ctim;
    return 0;
}

/* Said once when a peer goes with frames of ours unread; what it sent comes after. */
static bool says_peer_went(int error)
{
    return error == ECONNRESET || error == ECONNREFUSED || error == ECONNABORTED || error == EPIPE;
}

/* Frames received, or a negative errno. */
static int receive(int socket_fd, struct rp_batch *batch)
{
    struct mmsghdr messages[RP_TURN_FRAMES_MAX];
    struct iovec pieces[RP_TURN_FRAMES_MAX];
    for (uint32_t i = 0; i < RP_TURN_FRAMES_MAX; i++) {
        pieces[i] = (struct iovec){batch->data[i], sizeof(batch->data[i])};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(socket_fd, messages, RP_TURN_FRAMES_MAX, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++)
        batch->sizes[i] = messages[i].msg_len;
    return count < 0 ? -errno : count;
}

int rp_port_recv(struct rp_port *port, struct rp_batch *batch, uint32_t *count_ret)
{
    int count;
    *count_ret = 0;
    if (port->socket_fd < 0)
        return 0;
    do
        count = receive(port->socket_fd, batch);
    while (says_peer_went(-count) || count == -EINTR);
    if (count < 0)
        return count == -EAGAIN ? 0 : count;
    *count_ret = (uint32_t)count;
    return 0;
}

static int failed_send(struct rp_port *port, int error)
{
    if (error == EAGAIN || error == ENOBUFS || error == ENOMEM)
        return -EAGAIN;
    if (!says_gone(error))
        return -error;
    port->connected = false;
    return -ENOTCONN;
}

int rp_port_send(struct rp_port *port, const struct rp_frame *const *frames, uint32_t count,
                 uint32_t *given_ret)
{
    struct mmsghdr messages[RP_TURN_FRAMES_MAX];
    struct iovec pieces[RP_TURN_FRAMES_MAX];
    *given_ret = 0;
    if (!port->connected)
        return -ENOTCONN;
    for (uint32_t i = 0; i < count; i++) {
        pieces[i] = (struct iovec){(void *)(uintptr_t)frames[i]->data, frames[i]->size};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
    }
    while (*given_ret < count) {
        int given = sendmmsg(port->socket_fd, messages + *given_ret, count - *given_ret,
                             MSG_DONTWAIT | MSG_NOSIGNAL);
        if (given < 0 && errno == EINTR)
            continue;
        if (given < 0)
            return failed_send(port, errno);
        *given_ret += (uint32_t)given;
    }
    return 0;
}

static int64_t unread_bytes(int fd)
{
    int bytes = 0;
    return ioctl(fd, TIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

int64_t rp_port_unread_bytes(const struct rp_port *port)
{
    return port->connected ? unread_bytes(port->socket_fd) : 0;
}

int rp_costs_open(struct rp_costs *costs)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        return -errno;
    costs->near = ends[0];
    costs->far = ends[1];
    return 0;
}

void rp_costs_close(struct rp_costs *costs)
{
    if (costs->near < 0)
        return;
    close(costs->near);
    close(costs->far);
    costs->near = -1;
}

static uint32_t measure(const struct rp_costs *costs, uint32_t size)
{
    static const uint8_t nothing[RP_FRAME_BYTES_MAX];
    uint8_t byte;
    if (send(costs->near, nothing, size, 0) < 0)
        return size;
    int64_t cost = unread_bytes(costs->near);
    (void)!recv(costs->far, &byte, sizeof(byte), 0);
    return (uint32_t)cost;
}

uint32_t rp_costs_find(struct rp_costs *costs, uint32_t size)
{
    if (costs->of_size[size] == 0)
        costs->of_size[size] = measure(costs, size);
    return costs->of_size[size];
}

/* Says something about that frame, or about this moment, but not about the device's end. */
static bool says_not_now(int error)
{
    return error == EAGAIN || error == EINVAL || error == EIO || error == ENOBUFS ||
           error == ENOMEM || error == EMSGSIZE || error == EINTR;
}

int rp_tap_read(int tap_fd, uint8_t *data, uint32_t *size_ret)
{
    ssize_t size = read(tap_fd, data, RP_FRAME_BYTES_MAX);
    *size_ret = size > 0 ? (uint32_t)size : 0;
    return size >= 0 || says_not_now(errno) ? 0 : -errno;
}

int rp_tap_write(int tap_fd, const struct rp_frame *frame, bool *written_ret)
{
    ssize_t size;
    do
        size = write(tap_fd, frame->data, frame->size);
    while (size < 0 && errno == EINTR);
    *written_ret = size >= 0;
    return size >= 0 || says_not_now(errno) ? 0 : -errno;
}
