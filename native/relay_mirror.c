#include "relay_mirror.h"
#include "relay.h"

#include <string.h>

/* What a secondary keeps of inputs (INPUT_LOG_BYTES_MAX): more would be of no use to it. */
#define MIRROR_BYTES (UINT64_C(16) << 20)

int rp_mirror_init(struct rp_mirror *mirror)
{
    *mirror = (struct rp_mirror){0};
    pthread_mutex_init(&mirror->lock, NULL);
    pthread_cond_init(&mirror->changed, NULL);
    return rp_ring_init(&mirror->inputs, MIRROR_BYTES);
}

void rp_mirror_deinit(struct rp_mirror *mirror)
{
    rp_ring_deinit(&mirror->inputs);
    pthread_cond_destroy(&mirror->changed);
    pthread_mutex_destroy(&mirror->lock);
}

void rp_mirror_add(struct rp_mirror *mirror, uint64_t number, uint16_t nic, const void *data,
                   uint32_t size)
{
    pthread_mutex_lock(&mirror->lock);
    struct rp_frame *frame = rp_ring_push_copy(&mirror->inputs, data, size);
    if (frame != NULL) {
        frame->number = number;
        frame->nic = nic;
    }
    pthread_mutex_unlock(&mirror->lock);
}

static void count_up(struct rp_mirror *mirror, uint64_t *counter)
{
    pthread_mutex_lock(&mirror->lock);
    ++*counter;
    pthread_mutex_unlock(&mirror->lock);
}

void rp_mirror_say_full(struct rp_mirror *mirror) { count_up(mirror, &mirror->fulls); }

void rp_mirror_say_waiting(struct rp_mirror *mirror) { count_up(mirror, &mirror->waits); }

void rp_mirror_say_mute_turn(struct rp_mirror *mirror) { count_up(mirror, &mirror->mute_turns); }

void rp_mirror_end(struct rp_mirror *mirror)
{
    pthread_mutex_lock(&mirror->lock);
    mirror->ended = true;
    pthread_mutex_unlock(&mirror->lock);
}

static bool has_news(const struct rp_mirror *mirror, const struct rp_news *news)
{
    return mirror->inputs.count > 0 || mirror->fulls != news->fulls ||
           mirror->waits != news->waits || mirror->mute_turns != news->mute_turns || mirror->ended;
}

void rp_mirror_tell(struct rp_mirror *mirror) { pthread_cond_signal(&mirror->changed); }

/* The next inputs without a gap between their numbers, as many as fit. */
static uint32_t find_batch(const struct rp_mirror *mirror, uint64_t room,
                           const struct rp_frame **frames)
{
    const struct rp_frame *frame = rp_ring_head(&mirror->inputs);
    uint64_t most = mirror->inputs.count < RP_NEWS_FRAMES ? mirror->inputs.count : RP_NEWS_FRAMES;
    uint32_t count = 0;
    while (count < most && frame->size <= room &&
           (count == 0 || frame->number == frames[0]->number + count)) {
        room -= frame->size;
        frames[count++] = frame;
        if (count < most)
            frame = rp_ring_after(&mirror->inputs, frame);
    }
    return count;
}

static void copy_batch(const struct rp_frame *const *frames, uint32_t count, struct rp_news *news)
{
    uint8_t *to = news->data;
    news->frames = count;
    if (count > 0)
        news->first_number = frames[0]->number;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(to, frames[i]->data, frames[i]->size);
        to += frames[i]->size;
        news->sizes[i] = frames[i]->size;
        news->nics[i] = frames[i]->nic;
    }
}

void rp_mirror_take(struct rp_mirror *mirror, struct rp_news *news)
{
    const struct rp_frame *frames[RP_NEWS_FRAMES];
    pthread_mutex_lock(&mirror->lock);
    while (!has_news(mirror, news))
        pthread_cond_wait(&mirror->changed, &mirror->lock);
    uint32_t count = find_batch(mirror, news->room, frames);
    news->fulls = mirror->fulls;
    news->waits = mirror->waits;
    news->mute_turns = mirror->mute_turns;
    news->ended = mirror->ended;
    pthread_mutex_unlock(&mirror->lock);
    /* Nobody but this thread takes frames out, so these stay where they are: the relay's thread
     * does not wait for the copy. */
    copy_batch(frames, count, news);
    pthread_mutex_lock(&mirror->lock);
    for (uint32_t i = 0; i < count; i++)
        rp_ring_pop(&mirror->inputs);
    pthread_mutex_unlock(&mirror->lock);
}
