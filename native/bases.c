#include "bases.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES UINT64_C(4096)
/* 1 TiB of frames, see replicator/limits.py. */
#define PFN_MAX (UINT64_C(1) << 28)
#define NONE UINT32_MAX

struct slot {
    /* Whose version it holds, NONE when it is free. */
    uint32_t pfn;
    /* Of a free one: the next that is free. */
    uint32_t next_free;
    /* Updated since the hand passed: it is spared once. */
    bool spared;
};

struct rp_bases {
    struct rp_bases_counts counts;
    uint64_t pfn_limit;
    /* Slots below it were in use since all was dropped; what the others hold means nothing. */
    uint32_t used;
    uint32_t first_free;
    uint32_t hand;
    /* The slot of each frame. Only a hint: the slot must be in use and name the frame, so that
     * nothing here has to be erased. */
    uint32_t *index;
    struct slot *slots;
    /* Where the mapping starts, of so many bytes. */
    uint8_t *pages;
    size_t memory_bytes;
};

static uint64_t whole_pages(uint64_t bytes) { return (bytes + PAGE_BYTES - 1) & -PAGE_BYTES; }

static int map_memory(struct rp_bases *bases)
{
    uint64_t pages_bytes = bases->counts.capacity * PAGE_BYTES;
    uint64_t slots_bytes = whole_pages(bases->counts.capacity * sizeof(*bases->slots));
    uint64_t index_bytes = whole_pages(bases->pfn_limit * sizeof(*bases->index));
    bases->memory_bytes = pages_bytes + slots_bytes + index_bytes;
    uint8_t *memory =
        mmap(NULL, bases->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    bases->pages = memory;
    bases->slots = (struct slot *)(memory + pages_bytes);
    bases->index = (uint32_t *)(memory + pages_bytes + slots_bytes);
    return 0;
}

int rp_bases_create(uint64_t capacity, uint64_t pfn_limit, struct rp_bases **bases_ret)
{
    if (capacity == 0 || pfn_limit == 0 || pfn_limit > PFN_MAX)
        return -EINVAL;
    struct rp_bases *bases = calloc(1, sizeof(*bases));
    if (bases == NULL)
        return -ENOMEM;
    bases->counts.capacity = capacity < pfn_limit ? capacity : pfn_limit;
    bases->pfn_limit = pfn_limit;
    bases->first_free = NONE;
    int code = map_memory(bases);
    if (code != 0) {
        free(bases);
        return code;
    }
    *bases_ret = bases;
    return 0;
}

void rp_bases_destroy(struct rp_bases *bases)
{
    if (bases == NULL)
        return;
    munmap(bases->pages, bases->memory_bytes);
    free(bases);
}

/* NONE when no version of the frame is held. */
static uint32_t find_slot(const struct rp_bases *bases, uint64_t pfn)
{
    if (pfn >= bases->pfn_limit)
        return NONE;
    uint32_t slot = bases->index[pfn];
    return slot < bases->used && bases->slots[slot].pfn == pfn ? slot : NONE;
}

const uint8_t *rp_bases_find(const struct rp_bases *bases, uint64_t pfn)
{
    uint32_t slot = find_slot(bases, pfn);
    return slot == NONE ? NULL : bases->pages + slot * PAGE_BYTES;
}

/* Ends: a slot that was spared is not spared again. */
static uint32_t evict(struct rp_bases *bases)
{
    for (;;) {
        uint32_t slot = bases->hand;
        bases->hand = slot + 1 < bases->counts.capacity ? slot + 1 : 0;
        if (!bases->slots[slot].spared) {
            bases->counts.evictions++;
            bases->counts.held--;
            return slot;
        }
        bases->slots[slot].spared = false;
    }
}

static uint32_t take_slot(struct rp_bases *bases)
{
    uint32_t slot = bases->first_free;
    if (slot != NONE) {
        bases->first_free = bases->slots[slot].next_free;
        return slot;
    }
    return bases->used < bases->counts.capacity ? bases->used++ : evict(bases);
}

static void hold(struct rp_bases *bases, uint64_t pfn, const uint8_t *page)
{
    uint32_t slot = find_slot(bases, pfn);
    bool is_held = slot != NONE;
    if (is_held) {
        bases->counts.hits++;
    } else {
        bases->counts.misses++;
        slot = take_slot(bases);
        bases->index[pfn] = slot;
        bases->counts.held++;
    }
    bases->slots[slot].pfn = (uint32_t)pfn;
    bases->slots[slot].spared = is_held;
    memcpy(bases->pages + slot * PAGE_BYTES, page, PAGE_BYTES);
}

int rp_bases_update(struct rp_bases *bases, const uint64_t *pfns, uint64_t count,
                    const uint8_t *body)
{
    for (uint64_t i = 0; i < count; i++)
        if (pfns[i] >= bases->pfn_limit)
            return -ERANGE;
    for (uint64_t i = 0; i < count; i++)
        hold(bases, pfns[i], body + i * PAGE_BYTES);
    return 0;
}

void rp_bases_drop(struct rp_bases *bases, const uint64_t *pfns, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint32_t slot = find_slot(bases, pfns[i]);
        if (slot == NONE)
            continue;
        bases->slots[slot].pfn = NONE;
        bases->slots[slot].next_free = bases->first_free;
        bases->first_free = slot;
        bases->counts.held--;
    }
}

void rp_bases_drop_all(struct rp_bases *bases)
{
    bases->used = 0;
    bases->first_free = NONE;
    bases->hand = 0;
    bases->counts.held = 0;
}

void rp_bases_count(const struct rp_bases *bases, struct rp_bases_counts *counts_ret)
{
    *counts_ret = bases->counts;
}
