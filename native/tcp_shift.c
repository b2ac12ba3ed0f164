#include "tcp_shift.h"

#include <string.h>

#include "big_endian.h"

#define SEQ_AT 4
#define ACK_AT 8
#define CHECKSUM_AT 16

/* What is written; it begins as a copy of the frame with the first word that changes. */
struct rewrite {
    const uint8_t *frame;
    uint32_t size;
    uint8_t *out;
    bool has_changed;
};

static void change(struct rewrite *rewrite, uint32_t at, uint32_t value)
{
    if (load_32(rewrite->frame + at) == value)
        return;
    if (!rewrite->has_changed)
        memcpy(rewrite->out, rewrite->frame, rewrite->size);
    rewrite->has_changed = true;
    store_32(rewrite->out + at, value);
}

static uint32_t sum_words(const uint8_t *bytes, uint32_t count)
{
    uint32_t sum = 0;
    for (uint32_t at = 0; at < count; at += 2)
        sum += load_16(bytes + at);
    return sum;
}

static uint32_t fold(uint32_t sum)
{
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* RFC 1624. A header is a multiple of 4 bytes; all of it is counted, so that no word need be
 * aligned. */
static void update_checksum(const struct rewrite *rewrite, const struct rp_tcp_segment *segment)
{
    uint32_t at = segment->at, bytes = segment->payload_at - at;
    uint32_t before = fold(sum_words(rewrite->frame + at, bytes));
    uint32_t after = sum_words(rewrite->out + at, bytes);
    uint32_t checksum = load_16(rewrite->frame + at + CHECKSUM_AT);
    store_16(rewrite->out + at + CHECKSUM_AT,
             ~fold((~checksum & 0xffff) + (~before & 0xffff) + after));
}

static bool is_at_or_after(uint32_t one, uint32_t other) { return (int32_t)(one - other) >= 0; }

bool rp_shift_input(const uint8_t *frame, uint32_t size, const struct rp_tcp_segment *segment,
                    const struct rp_tcp_options *options, struct rp_shift shift,
                    struct rp_stamp newest, uint8_t *out)
{
    struct rewrite rewrite = {.frame = frame, .size = size, .out = out};
    if (options->is_signed || (segment->flags & RP_TCP_ACK) == 0)
        return false;
    if (shift.seq != 0) {
        change(&rewrite, segment->at + ACK_AT, segment->ack + shift.seq);
        for (uint32_t i = 0; i < options->sacks; i++) {
            uint32_t at = options->sacks_at + 4 * i;
            change(&rewrite, at, load_32(frame + at) + shift.seq);
        }
    }
    if (options->has_times && options->tsecr != 0) {
        uint32_t echo = options->tsecr + shift.ts;
        if (newest.is_known && is_at_or_after(echo, newest.value))
            echo = newest.value;
        change(&rewrite, options->times_at + 4, echo);
    }
    if (rewrite.has_changed)
        update_checksum(&rewrite, segment);
    return rewrite.has_changed;
}

bool rp_shift_output(const uint8_t *frame, uint32_t size, const struct rp_tcp_segment *segment,
                     const struct rp_tcp_options *options, struct rp_shift shift,
                     struct rp_stamp floor, uint8_t *out)
{
    struct rewrite rewrite = {.frame = frame, .size = size, .out = out};
    if (options->is_signed)
        return false;
    if (shift.seq != 0)
        change(&rewrite, segment->at + SEQ_AT, segment->seq - shift.seq);
    if (options->has_times) {
        uint32_t stamp = options->tsval - shift.ts;
        if (floor.is_known && is_at_or_after(floor.value, stamp))
            stamp = floor.value;
        change(&rewrite, options->times_at, stamp);
    }
    if (rewrite.has_changed)
        update_checksum(&rewrite, segment);
    return rewrite.has_changed;
}
