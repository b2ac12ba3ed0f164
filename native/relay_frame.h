#ifndef RP_RELAY_FRAME_H
#define RP_RELAY_FRAME_H
#include <stdbool.h>
#include <stdint.h>

/* An Ethernet frame on its way through the relay. It lies in the ring of whoever owns it. */
struct rp_frame {
    /* Of an output: its place among the guest's frames. Of an input: its number. From 1. */
    uint64_t number;
    /* CLOCK_BOOTTIME. Of an output: when it came. */
    int64_t at_ns;
    /* Of an output that is the last one of an epoch: which. */
    uint64_t epoch;
    /* The next one of a list of the owner. */
    struct rp_frame *next;
    uint32_t size;
    /* Of an input: what it counts in the socket while it is unread. */
    uint32_t cost;
    uint16_t nic;
    /* Its room can be used again when it is the oldest. */
    bool is_done;
    uint8_t data[];
};

/* Frames of somebody else, one after the other in `data`. */
struct rp_frames {
    uint32_t count;
    const uint32_t *sizes;
    const uint16_t *nics;
    const void *data;
};

#endif
