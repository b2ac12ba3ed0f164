#ifndef RP_SHIFT_TABLE_H
#define RP_SHIFT_TABLE_H
#include "tcp_shift.h"

/* What every frame to and from a secondary's guest is shifted by. The rules are those of
 * replicator/engine/compare/shift_table.py, the oracle of the tests. Not locked. */
struct rp_shift_table;

struct rp_lasting_shift {
    struct rp_shift shift;
    uint32_t key_bytes;
    uint8_t key[64];
};

/* Room for so many connections; `seed` is drawn, so that nobody knows which keys meet in one
 * bucket. -EINVAL for none or more than 2^20, -ENOMEM. */
int rp_shift_table_create(uint32_t connections_max, uint64_t seed,
                          struct rp_shift_table **table_ret);
void rp_shift_table_destroy(struct rp_shift_table *table);
uint32_t rp_shift_table_count(const struct rp_shift_table *table);

/* The frame as the guest must get it, in `out`, of the same size; false when it is as it came. */
bool rp_shift_table_to_guest(struct rp_shift_table *table, const uint8_t *frame, uint32_t size,
                             uint32_t nic, uint8_t *out);
/* The frame as the world must get it after the take-over; before, only looked at, and false. */
bool rp_shift_table_from_guest(struct rp_shift_table *table, const uint8_t *frame, uint32_t size,
                               uint32_t nic, uint8_t *out);

/* The shift of a connection since the last checkpoint. A key has 64 bytes at most. False when there
 * is no room for it. */
bool rp_shift_table_learn(struct rp_shift_table *table, const uint8_t *key, uint32_t key_bytes,
                          uint32_t seq, uint32_t ts);
/* The same of one that lasts from a take-over before. */
bool rp_shift_table_adopt(struct rp_shift_table *table, const uint8_t *key, uint32_t key_bytes,
                          uint32_t seq, uint32_t ts);
/* What was learnt; nothing of a connection that is not known. */
struct rp_shift rp_shift_table_recent(const struct rp_shift_table *table, const uint8_t *key,
                                      uint32_t key_bytes);
/* Lasting shifts one after the other, those used longest ago first. `cursor` begins as 0. False
 * when there are no more; the table may not change meanwhile. */
bool rp_shift_table_next_lasting(const struct rp_shift_table *table, uint32_t *cursor,
                                 struct rp_lasting_shift *lasting_ret);

/* A checkpoint made this guest the primary's. */
void rp_shift_table_commit(struct rp_shift_table *table);
/* This guest speaks to the world from now on. */
void rp_shift_table_take_over(struct rp_shift_table *table);
void rp_shift_table_forget_lasting(struct rp_shift_table *table);

#endif
