#ifndef RP_TCP_SEGMENT_H
#define RP_TCP_SEGMENT_H
#include <stdbool.h>
#include <stdint.h>

/* TCP segments in Ethernet frames: of which connection, and where their parts lie. The rules are
 * those of replicator/engine/compare/packet.py and tcp_options.py, the oracles of the tests. */

enum rp_tcp_flag { RP_TCP_FIN = 1, RP_TCP_SYN = 2, RP_TCP_RST = 4, RP_TCP_ACK = 16 };

struct rp_tcp_segment {
    uint32_t seq;
    uint32_t ack;
    uint32_t flags;
    /* Where its header and its payload begin and its payload ends, counted in the frame. */
    uint32_t at;
    uint32_t payload_at;
    uint32_t end;
    /* The connection: NIC, VLANs, addresses and ports, the guest's end first. */
    uint32_t key_bytes;
    uint8_t key[64];
};

struct rp_tcp_options {
    bool has_times;
    /* TCP-AO or MD5: nobody else may change the header. */
    bool is_signed;
    uint32_t tsval;
    uint32_t tsecr;
    /* Place of TSval in the frame. */
    uint32_t times_at;
    /* Place of the first SACK edge, and how many of 4 bytes follow one another. */
    uint32_t sacks_at;
    uint32_t sacks;
};

/* False when the frame holds no whole TCP segment; then nothing of it means anything. */
bool rp_tcp_read(const uint8_t *frame, uint32_t size, uint32_t nic, bool from_guest,
                 struct rp_tcp_segment *segment_ret);
/* Of a segment that was read in this frame, up to the first option that is broken. */
void rp_tcp_read_options(const uint8_t *frame, const struct rp_tcp_segment *segment,
                         struct rp_tcp_options *options_ret);

#endif
