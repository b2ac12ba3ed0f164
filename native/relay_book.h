#ifndef RP_RELAY_BOOK_H
#define RP_RELAY_BOOK_H
#include <stdint.h>

/* What one NIC's output tells about the guest's addresses. The rules are those of AddressBook in
 * replicator/output/announce.py, which is the oracle of the tests. */

struct rp_address {
    /* 4 or 16; the bytes beyond are 0. */
    uint32_t size;
    uint8_t bytes[16];
};

struct rp_book {
    uint8_t mac[6];
    uint32_t certain_count;
    uint32_t likely_count;
    struct rp_address certain[64];
    /* One more than are told: then the guest is a router. */
    struct rp_address likely[5];
    /* Of the newest frame of IP traffic; most frames end here. */
    struct rp_address last;
};

void rp_book_init(struct rp_book *book, const void *mac);
/* A frame that the guest sent. */
void rp_book_learn(struct rp_book *book, const uint8_t *frame, uint32_t size);

#endif
