#include "tcp_segment.h"

#include <string.h>

#include "big_endian.h"

#define ETHERNET_BYTES 14
#define VLANS_MAX 2
#define TYPE_VLAN 0x8100
#define TYPE_SERVICE_VLAN 0x88a8
#define TYPE_IPV4 0x0800
#define TYPE_IPV6 0x86dd

#define IPV4_BYTES 20
#define IPV4_FRAGMENT_BITS 0x3fff
#define IPV6_BYTES 40
#define IPV6_EXTENSIONS_MAX 8
#define PROTOCOL_TCP 6
#define TCP_BYTES 20

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_SACK 5
#define OPTION_TIMES 8
#define OPTION_TIMES_BYTES 10
#define OPTION_MD5 19
#define OPTION_AO 29

/* A frame that is taken apart from the outside in; `at` is where the next header begins. */
struct reader {
    const uint8_t *frame;
    uint32_t size;
    uint32_t at;
    /* Behind the IP packet, once that is known. */
    uint32_t end;
    uint32_t type;
    bool from_guest;
    struct rp_tcp_segment *out;
};

static void add_to_key(struct rp_tcp_segment *out, const uint8_t *bytes, uint32_t count)
{
    memcpy(out->key + out->key_bytes, bytes, count);
    out->key_bytes += count;
}

/* Two of the same size that follow one another, the guest's first. */
static void add_ends(const struct reader *reader, uint32_t at, uint32_t bytes)
{
    const uint8_t *source = reader->frame + at, *target = source + bytes;
    add_to_key(reader->out, reader->from_guest ? source : target, bytes);
    add_to_key(reader->out, reader->from_guest ? target : source, bytes);
}

static bool read_link(struct reader *reader, uint32_t nic)
{
    struct rp_tcp_segment *out = reader->out;
    uint8_t vlans = 0;
    if (reader->size < ETHERNET_BYTES)
        return false;
    reader->at = ETHERNET_BYTES;
    reader->type = load_16(reader->frame + ETHERNET_BYTES - 2);
    out->key[0] = (uint8_t)nic;
    out->key_bytes = 2;
    while ((reader->type == TYPE_VLAN || reader->type == TYPE_SERVICE_VLAN) && vlans < VLANS_MAX &&
           reader->size >= reader->at + 4) {
        const uint8_t tag[2] = {reader->frame[reader->at] & 0x0f, reader->frame[reader->at + 1]};
        add_to_key(out, tag, sizeof(tag));
        reader->type = load_16(reader->frame + reader->at + 2);
        reader->at += 4;
        vlans++;
    }
    out->key[1] = vlans;
    return true;
}

static bool read_ipv4(struct reader *reader)
{
    static const uint8_t family[2] = {4, PROTOCOL_TCP};
    uint32_t at = reader->at, room = reader->size - at;
    const uint8_t *head = reader->frame + at;
    if (room < IPV4_BYTES || head[0] >> 4 != 4)
        return false;
    uint32_t head_bytes = (head[0] & 15u) * 4, total = load_16(head + 2);
    if (head_bytes < IPV4_BYTES || total < head_bytes || total > room)
        return false;
    if ((load_16(head + 6) & IPV4_FRAGMENT_BITS) != 0 || head[9] != PROTOCOL_TCP)
        return false;
    add_to_key(reader->out, family, sizeof(family));
    add_ends(reader, at + 12, 4);
    reader->at = at + head_bytes;
    reader->end = at + total;
    return true;
}

static bool is_extension(uint32_t protocol)
{
    return protocol == 0 || protocol == 43 || protocol == 60;
}

/* Up to the header behind the extensions; its protocol, 0 when there is none. */
static uint32_t pass_extensions(struct reader *reader, uint32_t protocol)
{
    for (int i = 0; i < IPV6_EXTENSIONS_MAX && is_extension(protocol); i++) {
        if (reader->end < reader->at + 8)
            return 0;
        const uint8_t *head = reader->frame + reader->at;
        protocol = head[0];
        reader->at += 8 + 8u * head[1];
    }
    return reader->at > reader->end ? 0 : protocol;
}

static bool read_ipv6(struct reader *reader)
{
    static const uint8_t family[2] = {6, PROTOCOL_TCP};
    uint32_t at = reader->at, room = reader->size - at;
    const uint8_t *head = reader->frame + at;
    if (room < IPV6_BYTES || head[0] >> 4 != 6 || load_16(head + 4) > room - IPV6_BYTES)
        return false;
    reader->at = at + IPV6_BYTES;
    reader->end = reader->at + load_16(head + 4);
    if (pass_extensions(reader, head[6]) != PROTOCOL_TCP)
        return false;
    add_to_key(reader->out, family, sizeof(family));
    add_ends(reader, at + 8, 16);
    return true;
}

static bool read_tcp(struct reader *reader)
{
    struct rp_tcp_segment *out = reader->out;
    const uint8_t *head = reader->frame + reader->at;
    uint32_t room = reader->end - reader->at;
    if (room < TCP_BYTES)
        return false;
    uint32_t head_bytes = (head[12] >> 4) * 4u;
    if (head_bytes < TCP_BYTES || head_bytes > room)
        return false;
    add_ends(reader, reader->at, 2);
    out->seq = load_32(head + 4);
    out->ack = load_32(head + 8);
    out->flags = head[13];
    out->at = reader->at;
    out->payload_at = reader->at + head_bytes;
    out->end = reader->end;
    return true;
}

bool rp_tcp_read(const uint8_t *frame, uint32_t size, uint32_t nic, bool from_guest,
                 struct rp_tcp_segment *segment_ret)
{
    struct reader reader = {
        .frame = frame, .size = size, .from_guest = from_guest, .out = segment_ret};
    if (!read_link(&reader, nic))
        return false;
    if (reader.type == TYPE_IPV4)
        return read_ipv4(&reader) && read_tcp(&reader);
    return reader.type == TYPE_IPV6 && read_ipv6(&reader) && read_tcp(&reader);
}

static void read_option(const uint8_t *frame, uint32_t at, uint32_t bytes,
                        struct rp_tcp_options *out)
{
    uint8_t kind = frame[at];
    if (kind == OPTION_TIMES && bytes == OPTION_TIMES_BYTES) {
        out->has_times = true;
        out->times_at = at + 2;
        out->tsval = load_32(frame + at + 2);
        out->tsecr = load_32(frame + at + 6);
    } else if (kind == OPTION_SACK && (bytes - 2) % 8 == 0) {
        out->sacks_at = at + 2;
        out->sacks = (bytes - 2) / 4;
    } else if (kind == OPTION_MD5 || kind == OPTION_AO) {
        out->is_signed = true;
    }
}

void rp_tcp_read_options(const uint8_t *frame, const struct rp_tcp_segment *segment,
                         struct rp_tcp_options *options_ret)
{
    uint32_t at = segment->at + TCP_BYTES, end = segment->payload_at;
    *options_ret = (struct rp_tcp_options){0};
    while (at < end && frame[at] != OPTION_END) {
        if (frame[at] == OPTION_NOP) {
            at++;
            continue;
        }
        if (at + 1 >= end || frame[at + 1] < 2 || at + frame[at + 1] > end)
            return;
        read_option(frame, at, frame[at + 1], options_ret);
        at += frame[at + 1];
    }
}
