#ifndef RP_RECORD_STREAM_H
#define RP_RECORD_STREAM_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A connection of TCP that carries records, each behind four bytes of length, as
 * replicator/link/record_socket.py has them without keys. It is somebody else's, and used for a
 * while. Nothing waits. */

/* Largest record. */
#define RP_RECORD_BYTES_MAX (96 << 10)
/* One record and the beginning of the next. */
#define RP_RECORD_ROOM_BYTES (2 * (4 + RP_RECORD_BYTES_MAX))
/* What one side has to say in one turn, if the kernel takes nothing of it. */
#define RP_RECORDS_UNSENT_MAX (3 << 20)

struct rp_record_stream {
    int fd;
    /* What came in and was not taken: from `in_at` up to `in_end`. */
    uint32_t in_at;
    uint32_t in_end;
    /* What is written and not sent: of `out`, from `out_at` up to `out_end`. */
    uint32_t out_at;
    uint32_t out_end;
    uint8_t in[RP_RECORD_ROOM_BYTES];
    uint8_t out[RP_RECORDS_UNSENT_MAX];
};

/* `rest` has come in before, and is as long as the room at most. */
void rp_stream_begin(struct rp_record_stream *stream, int fd, const void *rest,
                     uint32_t rest_bytes);
/* Receive once. -EAGAIN when there was nothing or no room, -EPIPE at its end, or what the system
 * says. */
int rp_stream_receive(struct rp_record_stream *stream);
/* The next whole record, which stays until it is taken. */
bool rp_stream_peek(struct rp_record_stream *stream, const uint8_t **data_ret, uint32_t *size_ret);
void rp_stream_take(struct rp_record_stream *stream, uint32_t size);
/* What comes next is larger than any record. */
bool rp_stream_is_broken(const struct rp_record_stream *stream);
/* Where the next record to send is to be written, RP_RECORD_BYTES_MAX at most; NULL when too much
 * is left of those before. */
uint8_t *rp_stream_room(struct rp_record_stream *stream);
/* Send it, behind what is left. What the kernel does not take is left. */
int rp_stream_send(struct rp_record_stream *stream, uint32_t size);

#endif
