#ifndef RP_FRAME_MESSAGE_H
#define RP_FRAME_MESSAGE_H
#include <stdbool.h>
#include <stdint.h>

/* Messages between the relays of a COLO pair: those that come by with each frame. The format and
 * its bounds are those of replicator/wire/frames.py, the oracle of the tests; what is not surely
 * one of these, and in order, is for that to judge. */

enum rp_message_kind {
    RP_MESSAGE_OTHER,
    RP_MESSAGE_INPUT_BATCH,
    RP_MESSAGE_OUTPUT_BATCH,
    RP_MESSAGE_INPUTS_LOGGED,
};

struct rp_message_row {
    uint32_t nic;
    uint32_t size;
    const uint8_t *data;
};

struct rp_message {
    enum rp_message_kind kind;
    uint8_t session[16];
    /* In its direction, from 1. */
    uint64_t number;
    /* Of an output-batch. */
    uint64_t epoch;
    /* Number of the first frame of an input-batch; of the others how far inputs are logged. */
    uint64_t seq;
    uint32_t row_count;
    struct rp_message_row rows[256];
};

/* Take a message apart; its rows point into `data`. OTHER for one that is not of these kinds, or
 * not in order; what `message_ret` says then is nothing. */
enum rp_message_kind rp_message_read(const uint8_t *data, uint32_t size,
                                     struct rp_message *message_ret);
/* Returns how many bytes were written; 0 without room for them. Of the bounds none is checked. */
uint32_t rp_message_write(const struct rp_message *message, uint8_t *out, uint32_t room);

#endif
