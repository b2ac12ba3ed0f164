/* Any bytes as a message of the frame channel: rows lie within it and in their bounds, and what is
 * written of a message reads as the same. */
#include "../frame_message.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define ROOM (96 << 10)

static void check_rows(const struct rp_message *message, const uint8_t *data, size_t size)
{
    DEMAND(message->row_count >= 1 && message->row_count <= 256);
    for (uint32_t i = 0; i < message->row_count; i++) {
        const struct rp_message_row *row = &message->rows[i];
        DEMAND(row->nic < 32 && row->size >= 1 && row->size <= 65536);
        DEMAND(row->data >= data && row->data + row->size <= data + size);
    }
}

static void check_same(const struct rp_message *one, const struct rp_message *other)
{
    DEMAND(one->kind == other->kind && one->number == other->number);
    DEMAND(one->epoch == other->epoch && one->seq == other->seq);
    DEMAND(memcmp(one->session, other->session, sizeof(one->session)) == 0);
    DEMAND(one->row_count == other->row_count);
    for (uint32_t i = 0; i < one->row_count; i++) {
        DEMAND(one->rows[i].nic == other->rows[i].nic);
        DEMAND(one->rows[i].size == other->rows[i].size);
        DEMAND(memcmp(one->rows[i].data, other->rows[i].data, one->rows[i].size) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct rp_message message, again;
    static uint8_t room[ROOM];
    uint8_t *copy = fuzz_copy(data, size);
    if (rp_message_read(copy, (uint32_t)size, &message) != RP_MESSAGE_OTHER) {
        if (message.kind != RP_MESSAGE_INPUTS_LOGGED)
            check_rows(&message, copy, size);
        uint32_t written = rp_message_write(&message, room, sizeof(room));
        DEMAND(written > 0 && written <= size);
        DEMAND(rp_message_write(&message, room, written - 1) == 0);
        DEMAND(rp_message_read(room, written, &again) == message.kind);
        check_same(&message, &again);
    }
    free(copy);
    return 0;
}
