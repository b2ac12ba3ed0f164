/* The cache of bases against one that is a plain list of slots: which frames it holds, with what,
 * and who gives way.
 *
 * Input: u8 capacity, u8 frames, then calls: u8 which, u8 frame, u8 what its page is filled with.
 */
#include "../bases.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096
#define SLOTS_MAX 16
#define CALLS_MAX 200
#define NOBODY UINT64_MAX

/* Slots that were never used, or given back, are a stack. */
struct model {
    uint64_t capacity, limit;
    uint64_t owner[SLOTS_MAX];
    uint8_t filler[SLOTS_MAX];
    bool spared[SLOTS_MAX];
    uint64_t open[SLOTS_MAX];
    uint64_t open_count, hand, hits, misses, evictions;
};

static void open_all(struct model *model)
{
    model->open_count = model->capacity;
    model->hand = 0;
    for (uint64_t slot = 0; slot < model->capacity; slot++) {
        model->owner[slot] = NOBODY;
        model->open[slot] = model->capacity - 1 - slot;
    }
}

/* The slot of a frame, the capacity when it has none. */
static uint64_t slot_of(const struct model *model, uint64_t frame)
{
    uint64_t slot = 0;
    while (slot < model->capacity && model->owner[slot] != frame)
        slot++;
    return slot;
}

static uint64_t give_way(struct model *model)
{
    while (model->spared[model->hand]) {
        model->spared[model->hand] = false;
        model->hand = (model->hand + 1) % model->capacity;
    }
    uint64_t slot = model->hand;
    model->hand = (slot + 1) % model->capacity;
    model->evictions++;
    return slot;
}

static void update(struct model *model, uint64_t frame, uint8_t filler)
{
    uint64_t slot = slot_of(model, frame);
    bool known = slot < model->capacity;
    if (known)
        model->hits++;
    else
        model->misses++;
    if (!known)
        slot = model->open_count > 0 ? model->open[--model->open_count] : give_way(model);
    model->owner[slot] = frame;
    model->filler[slot] = filler;
    model->spared[slot] = known;
}

static void drop(struct model *model, uint64_t frame)
{
    uint64_t slot = slot_of(model, frame);
    if (slot == model->capacity)
        return;
    model->owner[slot] = NOBODY;
    model->open[model->open_count++] = slot;
}

static void call(struct fuzz_input *input, struct rp_bases *bases, struct model *model)
{
    uint64_t which = fuzz_take(input, 1) % 8, frame = fuzz_take(input, 1) % (model->limit + 2);
    uint8_t filler = (uint8_t)fuzz_take(input, 1);
    uint64_t *list = fuzz_copy(&frame, sizeof(frame));
    uint8_t *page = fuzz_room(PAGE, filler);
    if (which == 0) {
        rp_bases_drop_all(bases);
        open_all(model);
    } else if (which == 1) {
        rp_bases_drop(bases, list, 1);
        drop(model, frame);
    } else {
        int code = rp_bases_update(bases, list, 1, page);
        DEMAND(code == (frame < model->limit ? 0 : -ERANGE));
        if (code == 0)
            update(model, frame, filler);
    }
    free(page);
    free(list);
}

static void compare(const struct rp_bases *bases, const struct model *model)
{
    uint64_t held = 0;
    for (uint64_t frame = 0; frame < model->limit + 2; frame++) {
        uint64_t slot = slot_of(model, frame);
        const uint8_t *page = rp_bases_find(bases, frame);
        DEMAND((page != NULL) == (slot < model->capacity));
        DEMAND(page == NULL || fuzz_is_filled(page, PAGE, model->filler[slot]));
        held += page != NULL;
    }
    struct rp_bases_counts counts;
    rp_bases_count(bases, &counts);
    DEMAND(counts.capacity == model->capacity && counts.held == held);
    DEMAND(counts.hits == model->hits && counts.misses == model->misses);
    DEMAND(counts.evictions == model->evictions);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct model model = {0};
    struct rp_bases *bases = NULL;
    uint64_t capacity = fuzz_take(&input, 1) % (SLOTS_MAX + 1);
    model.limit = fuzz_take(&input, 1) % (2 * SLOTS_MAX);
    int code = rp_bases_create(capacity, model.limit, &bases);
    DEMAND(code == (capacity == 0 || model.limit == 0 ? -EINVAL : 0));
    if (code != 0)
        return 0;
    model.capacity = capacity < model.limit ? capacity : model.limit;
    open_all(&model);
    for (int calls = 0; calls < CALLS_MAX && input.left > 0; calls++) {
        call(&input, bases, &model);
        compare(bases, &model);
    }
    rp_bases_destroy(bases);
    return 0;
}
