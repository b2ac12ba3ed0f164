#include "relay_book.h"

#include <stdbool.h>
#include <string.h>

#define CERTAIN_MAX 64
#define LIKELY_MAX 5

#define SOURCE_MAC 6
#define ETHERTYPE 12
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_IPV6 0x86dd
#define IPV4_SOURCE 26
#define IPV6_NEXT_HEADER 20
#define IPV6_SOURCE 22
#define ICMPV6 58
#define ICMPV6_TYPE 54
#define ICMPV6_TARGET 62
#define SOLICITATION 135
#define ADVERTISEMENT 136
#define ARP_KIND 14
#define ARP_SENDER_MAC 22
#define ARP_SENDER 28

/* Ethernet and IPv4, addresses of 6 and 4 bytes. */
static const uint8_t ARP_ETHERNET_IPV4[] = {0, 1, 8, 0, 6, 4};

void rp_book_init(struct rp_book *book, const void *mac)
{
    *book = (struct rp_book){0};
    memcpy(book->mac, mac, sizeof(book->mac));
}

static bool is_same(const struct rp_address *one, const struct rp_address *other)
{
    return one->size == other->size && memcmp(one->bytes, other->bytes, sizeof(one->bytes)) == 0;
}

static bool is_in(const struct rp_address *list, uint32_t count, const struct rp_address *address)
{
    for (uint32_t i = 0; i < count; i++)
        if (is_same(&list[i], address))
            return true;
    return false;
}

static bool is_filled(const uint8_t *bytes, uint32_t count, uint8_t filler)
{
    for (uint32_t i = 0; i < count; i++)
        if (bytes[i] != filler)
            return false;
    return true;
}

/* Whether a single machine can have it: not unspecified, multicast, loopback or broadcast. */
static bool is_host(const struct rp_address *address)
{
    const uint8_t *bytes = address->bytes;
    if (address->size == 4)
        return !is_filled(bytes, 4, 0) && !is_filled(bytes, 4, 0xff) && bytes[0] != 127 &&
               bytes[0] >> 4 != 14;
    return bytes[0] != 0xff && !(is_filled(bytes, 15, 0) && bytes[15] <= 1);
}

/* False when the frame ends before the address does. */
static bool read_address(const uint8_t *frame, uint32_t size, uint32_t at, uint32_t bytes,
                         struct rp_address *address_ret)
{
    if (size < at + bytes)
        return false;
    *address_ret = (struct rp_address){.size = bytes};
    memcpy(address_ret->bytes, frame + at, bytes);
    return true;
}

static void add_certain(struct rp_book *book, const struct rp_address *address)
{
    if (book->certain_count < CERTAIN_MAX && is_host(address) &&
        !is_in(book->certain, book->certain_count, address))
        book->certain[book->certain_count++] = *address;
}

static void add_likely(struct rp_book *book, const struct rp_address *address)
{
    if (book->likely_count == LIKELY_MAX || is_same(&book->last, address))
        return;
    book->last = *address;
    if (is_host(address) && !is_in(book->likely, book->likely_count, address) &&
        !is_in(book->certain, book->certain_count, address))
        book->likely[book->likely_count++] = *address;
}

/* A probe has sender 0.0.0.0, which is no host. */
static void learn_arp(struct rp_book *book, const uint8_t *frame, uint32_t size)
{
    struct rp_address address;
    if (read_address(frame, size, ARP_SENDER, 4, &address) &&
        memcmp(frame + ARP_KIND, ARP_ETHERNET_IPV4, sizeof(ARP_ETHERNET_IPV4)) == 0 &&
        memcmp(frame + ARP_SENDER_MAC, book->mac, sizeof(book->mac)) == 0)
        add_certain(book, &address);
}

/* The target of an advertisement and the source of a solicitation are the sender's (RFC 4861). */
static void learn_discovery(struct rp_book *book, const uint8_t *frame, uint32_t size)
{
    struct rp_address address;
    if (size <= ICMPV6_TYPE)
        return;
    if (frame[ICMPV6_TYPE] == ADVERTISEMENT &&
        read_address(frame, size, ICMPV6_TARGET, 16, &address))
        add_certain(book, &address);
    if (frame[ICMPV6_TYPE] == SOLICITATION && read_address(frame, size, IPV6_SOURCE, 16, &address))
        add_certain(book, &address);
}

static void learn_traffic(struct rp_book *book, const uint8_t *frame, uint32_t size, uint32_t at,
                          uint32_t bytes)
{
    struct rp_address address;
    if (read_address(frame, size, at, bytes, &address))
        add_likely(book, &address);
}

void rp_book_learn(struct rp_book *book, const uint8_t *frame, uint32_t size)
{
    if (size < ETHERTYPE + 2 || memcmp(frame + SOURCE_MAC, book->mac, sizeof(book->mac)) != 0)
        return;
    unsigned int kind = (unsigned int)frame[ETHERTYPE] << 8 | frame[ETHERTYPE + 1];
    if (kind == ETHERTYPE_ARP)
        learn_arp(book, frame, size);
    if (kind == ETHERTYPE_IPV6 && size > IPV6_NEXT_HEADER && frame[IPV6_NEXT_HEADER] == ICMPV6)
        learn_discovery(book, frame, size);
    if (kind == ETHERTYPE_IPV4)
        learn_traffic(book, frame, size, IPV4_SOURCE, 4);
    if (kind == ETHERTYPE_IPV6)
        learn_traffic(book, frame, size, IPV6_SOURCE, 16);
}
