#ifndef RP_RELAY_PORT_H
#define RP_RELAY_PORT_H
#include "relay_frame.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>

/* System calls of one NIC's two ends. Nothing here waits. */

/* Largest frame; what is larger is lost. */
#define RP_FRAME_BYTES_MAX 65536
/* Frames of one direction of one NIC before the others get their turn. */
#define RP_TURN_FRAMES_MAX 32

struct rp_port {
    /* -1 before the start and after the end. */
    int socket_fd;
    int tap_fd;
    struct sockaddr_un guest;
    /* Somebody is at the other end: the socket that had this file. */
    bool connected;
    dev_t device;
    ino_t inode;
    struct timespec changed_at;
};

/* Room for one call that receives several frames. */
struct rp_batch {
    uint32_t sizes[RP_TURN_FRAMES_MAX];
    /* One byte more than the largest frame shows that a frame is larger. */
    uint8_t data[RP_TURN_FRAMES_MAX][RP_FRAME_BYTES_MAX + 1];
};

/* What a queued datagram of some length counts in the sender's socket: measured once a length,
 * because the kernel rounds. */
struct rp_costs {
    int near;
    int far;
    uint32_t of_size[RP_FRAME_BYTES_MAX + 1];
};

int rp_costs_open(struct rp_costs *costs);
void rp_costs_close(struct rp_costs *costs);
uint32_t rp_costs_find(struct rp_costs *costs, uint32_t size);

/* -ENAMETOOLONG. */
int rp_port_init(struct rp_port *port, int socket_fd, int tap_fd, const char *guest_path);

/* Another socket than the one we are connected to is at the guest's path. None there is no change:
 * a connection outlives its name. */
bool rp_port_has_new_peer(const struct rp_port *port);
/* Connect to whoever is at the guest's path now; nobody is no error. What the former peer sent and
 * was not read is gone. */
int rp_port_connect(struct rp_port *port);

/* The guest's next frames; fewer than a batch when there are no more now. */
int rp_port_recv(struct rp_port *port, struct rp_batch *batch, uint32_t *count_ret);
/* Give frames to the guest, as many as it takes. Then -EAGAIN: its queue is full; -ENOTCONN: nobody
 * is there; -EMSGSIZE: the first that was not given can never be. */
int rp_port_send(struct rp_port *port, const struct rp_frame *const *frames, uint32_t count,
                 uint32_t *given_ret);
/* What the guest was sent and has not read, in the kernel's measure. */
int64_t rp_port_unread_bytes(const struct rp_port *port);

/* One frame; size 0 when there is none now. An error says that the device is gone. */
int rp_tap_read(int tap_fd, uint8_t *data, uint32_t *size_ret);
int rp_tap_write(int tap_fd, const struct rp_frame *frame, bool *written_ret);

#endif
