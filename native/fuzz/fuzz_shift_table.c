/* TCP segments in frames of anybody's making, and the table that shifts their numbers. What is read
 * lies in the frame; what is changed is the header alone, its checksum is as right or wrong as it
 * was, and to shift back gives the frame again. The table knows no more connections than it may,
 * and of each what was learnt last, as a plain list does.
 *
 * Input: u8 connections; then calls: u8 which. A frame is u8 how many bytes follow its Ethernet
 * addresses, and these; a shift u8 which key, u32, u32. */
#include "../shift_table.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 16
#define CALLS_MAX 64
#define HEADER 20

/* What was learnt of keys of one byte; frames have longer ones. */
struct known {
    bool is_known;
    struct rp_shift recent, lasting;
};

struct frame {
    uint8_t *bytes;
    uint32_t size;
};

static struct frame take_frame(struct fuzz_input *input)
{
    size_t rest = fuzz_take(input, 1);
    struct frame frame = {NULL, (uint32_t)(12 + rest)};
    frame.bytes = fuzz_room(frame.size, 0);
    for (size_t at = 0; at < rest; at++)
        frame.bytes[12 + at] = (uint8_t)fuzz_take(input, 1);
    return frame;
}

static uint32_t ones_sum(const uint8_t *bytes, uint32_t count)
{
    uint64_t sum = 0;
    for (uint32_t at = 0; at < count; at++)
        sum += (uint64_t)bytes[at] << (at % 2 == 0 ? 8 : 0);
    return (uint32_t)(sum % 0xffff);
}

static void check_place(const struct frame *frame, const struct rp_tcp_segment *segment,
                        const struct rp_tcp_options *options)
{
    const uint8_t *head = frame->bytes + segment->at;
    DEMAND(segment->at >= 34 && segment->at + HEADER <= segment->payload_at);
    DEMAND(segment->payload_at <= segment->end && segment->end <= frame->size);
    DEMAND(segment->payload_at - segment->at == (uint32_t)(head[12] >> 4) * 4);
    DEMAND(segment->flags == head[13]);
    DEMAND(segment->seq ==
           ((uint32_t)head[4] << 24 | (uint32_t)head[5] << 16 | (uint32_t)head[6] << 8 | head[7]));
    DEMAND(segment->key_bytes >= 16 && segment->key_bytes <= 44);
    DEMAND(!options->has_times || (options->times_at >= segment->at + HEADER + 2 &&
                                   options->times_at + 8 <= segment->payload_at));
    DEMAND(options->sacks == 0 || (options->sacks_at >= segment->at + HEADER + 2 &&
                                   options->sacks_at + 4 * options->sacks <= segment->payload_at));
}

/* The key names the guest's end first, whichever way the frame goes. */
static void check_key(const struct frame *frame, const struct rp_tcp_segment *segment)
{
    struct rp_tcp_segment other;
    uint32_t bytes = segment->key_bytes, ports = bytes - 4;
    DEMAND(rp_tcp_read(frame->bytes, frame->size, 3, false, &other));
    DEMAND(other.key_bytes == bytes && other.seq == segment->seq && other.end == segment->end);
    DEMAND(memcmp(segment->key + ports, other.key + ports + 2, 2) == 0);
    DEMAND(memcmp(segment->key + ports + 2, other.key + ports, 2) == 0);
    DEMAND(segment->key[0] == 3 && segment->key[1] <= 2);
}

static void check_change(const struct frame *frame, const struct rp_tcp_segment *segment,
                         const uint8_t *out)
{
    uint32_t at = segment->at, bytes = segment->payload_at - at;
    DEMAND(memcmp(out, frame->bytes, at) == 0);
    DEMAND(memcmp(out + segment->payload_at, frame->bytes + segment->payload_at,
                  frame->size - segment->payload_at) == 0);
    DEMAND(memcmp(out, frame->bytes, frame->size) != 0);
    DEMAND(ones_sum(out + at, bytes) == ones_sum(frame->bytes + at, bytes));
}

/* There and back again. A checksum of 0 may come back as its other form. */
static void check_way_back(const struct frame *frame, const struct rp_tcp_segment *segment,
                           const struct rp_tcp_options *options, struct rp_shift shift)
{
    const struct rp_shift back = {-shift.seq, -shift.ts};
    const struct rp_stamp none = {false, 0};
    struct rp_tcp_segment moved;
    struct rp_tcp_options moved_options;
    uint8_t *out = fuzz_room(frame->size, 0), *again = fuzz_room(frame->size, 0);
    if (rp_shift_output(frame->bytes, frame->size, segment, options, shift, none, out)) {
        check_change(frame, segment, out);
        DEMAND(rp_tcp_read(out, frame->size, 3, true, &moved));
        rp_tcp_read_options(out, &moved, &moved_options);
        if (rp_shift_output(out, frame->size, &moved, &moved_options, back, none, again)) {
            memcpy(again + segment->at + 16, frame->bytes + segment->at + 16, 2);
            DEMAND(memcmp(again, frame->bytes, frame->size) == 0);
        }
    }
    if (rp_shift_input(frame->bytes, frame->size, segment, options, shift, none, out))
        check_change(frame, segment, out);
    free(out);
    free(again);
}

static void play_frame(struct fuzz_input *input, struct rp_shift_table *table, bool from_guest)
{
    struct frame frame = take_frame(input);
    struct rp_tcp_segment segment;
    struct rp_tcp_options options;
    uint8_t *out = fuzz_room(frame.size, 0);
    bool is_tcp = rp_tcp_read(frame.bytes, frame.size, 3, true, &segment);
    uint32_t before = rp_shift_table_count(table);
    bool has_changed = from_guest
                           ? rp_shift_table_from_guest(table, frame.bytes, frame.size, 3, out)
                           : rp_shift_table_to_guest(table, frame.bytes, frame.size, 3, out);
    DEMAND(is_tcp || (!has_changed && rp_shift_table_count(table) == before));
    if (is_tcp) {
        rp_tcp_read_options(frame.bytes, &segment, &options);
        check_place(&frame, &segment, &options);
        check_key(&frame, &segment);
        check_way_back(&frame, &segment, &options, (struct rp_shift){segment.ack | 1, segment.seq});
        if (has_changed)
            check_change(&frame, &segment, out);
    }
    free(out);
    free(frame.bytes);
}

/* Some of the connections may have given way to others; what is known of the rest is right. */
static void check_known(const struct rp_shift_table *table, const struct known *known)
{
    struct rp_lasting_shift one;
    uint32_t cursor = 0, lasting = 0;
    for (unsigned int at = 0; at < KEYS; at++) {
        uint8_t *key = fuzz_copy(&(uint8_t){(uint8_t)at}, 1);
        struct rp_shift recent = rp_shift_table_recent(table, key, 1);
        bool is_none = recent.seq == 0 && recent.ts == 0;
        DEMAND(is_none || (recent.seq == known[at].recent.seq && recent.ts == known[at].recent.ts));
        /* Who is shifted never gives way. */
        DEMAND(!is_none || (known[at].recent.seq == 0 && known[at].recent.ts == 0));
        free(key);
    }
    while (rp_shift_table_next_lasting(table, &cursor, &one)) {
        DEMAND(lasting++ < rp_shift_table_count(table));
        DEMAND(one.shift.seq != 0 || one.shift.ts != 0);
        if (one.key_bytes != 1)
            continue;
        DEMAND(one.key[0] < KEYS);
        DEMAND(one.shift.seq == known[one.key[0]].lasting.seq &&
               one.shift.ts == known[one.key[0]].lasting.ts);
    }
}

static void play_shift(struct fuzz_input *input, struct rp_shift_table *table, struct known *known,
                       bool lasts)
{
    uint8_t *key = fuzz_copy(&(uint8_t){(uint8_t)(fuzz_take(input, 1) % KEYS)}, 1);
    uint32_t seq = (uint32_t)fuzz_take(input, 4), ts = (uint32_t)fuzz_take(input, 4);
    bool is_taken = lasts ? rp_shift_table_adopt(table, key, 1, seq, ts)
                          : rp_shift_table_learn(table, key, 1, seq, ts);
    if (is_taken) {
        struct known *one = &known[*key];
        bool was_shifted = one->recent.seq || one->recent.ts || one->lasting.seq || one->lasting.ts;
        DEMAND(one->is_known || !was_shifted);
        one->is_known = true;
        *(lasts ? &one->lasting : &one->recent) = (struct rp_shift){seq, ts};
    }
    free(key);
}

static void play_all(struct rp_shift_table *table, struct known *known, unsigned int which)
{
    if (which == 0)
        rp_shift_table_commit(table);
    else
        rp_shift_table_forget_lasting(table);
    for (unsigned int at = 0; at < KEYS; at++)
        *(which == 0 ? &known[at].recent : &known[at].lasting) = (struct rp_shift){0, 0};
}

/* A take-over is the last call on shifts that are followed: it gives one to each connection. */
static void play_taken_over(struct fuzz_input *input, struct rp_shift_table *table)
{
    struct rp_lasting_shift one;
    uint32_t cursor = 0;
    rp_shift_table_take_over(table);
    for (int calls = 0; calls < CALLS_MAX && input->left > 0; calls++)
        play_frame(input, table, calls % 2 == 0);
    while (rp_shift_table_next_lasting(table, &cursor, &one))
        DEMAND(one.key_bytes <= sizeof(one.key));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct known known[KEYS] = {{0}};
    struct rp_shift_table *table = NULL;
    uint32_t most = (uint32_t)fuzz_take(&input, 1) % 20;
    int code = rp_shift_table_create(most, size, &table);
    DEMAND(code == (most == 0 ? -EINVAL : 0));
    for (int calls = 0; code == 0 && calls < CALLS_MAX && input.left > 0; calls++) {
        unsigned int which = (unsigned int)fuzz_take(&input, 1) % 8;
        if (which < 4)
            play_frame(&input, table, which % 2 == 0);
        else if (which < 6)
            play_shift(&input, table, known, which == 5);
        else
            play_all(table, known, which - 6);
        DEMAND(rp_shift_table_count(table) <= most);
        check_known(table, known);
    }
    if (code == 0 && size % 2 == 0)
        play_taken_over(&input, table);
    rp_shift_table_destroy(table);
    return 0;
}
