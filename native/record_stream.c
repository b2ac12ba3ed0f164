#include "record_stream.h"
#include "big_endian.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define LENGTH_BYTES 4

void rp_stream_begin(struct rp_record_stream *stream, int fd, const void *rest, uint32_t rest_bytes)
{
    stream->fd = fd;
    stream->in_at = 0;
    stream->in_end = rest_bytes;
    stream->out_at = 0;
    stream->out_end = 0;
    memcpy(stream->in, rest, rest_bytes);
}

int rp_stream_receive(struct rp_record_stream *stream)
{
    memmove(stream->in, stream->in + stream->in_at, stream->in_end - stream->in_at);
    stream->in_end -= stream->in_at;
    stream->in_at = 0;
    size_t room = sizeof(stream->in) - stream->in_end;
    if (room == 0)
        return -EAGAIN;
    ssize_t size = recv(stream->fd, stream->in + stream->in_end, room, MSG_DONTWAIT);
    if (size == 0)
        return -EPIPE;
    if (size < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    stream->in_end += (uint32_t)size;
    return 0;
}

bool rp_stream_peek(struct rp_record_stream *stream, const uint8_t **data_ret, uint32_t *size_ret)
{
    const uint8_t *at = stream->in + stream->in_at;
    uint32_t left = stream->in_end - stream->in_at;
    if (left < LENGTH_BYTES)
        return false;
    uint32_t size = load_32(at);
    if (left - LENGTH_BYTES < size)
        return false;
    *data_ret = at + LENGTH_BYTES;
    *size_ret = size;
    return true;
}

void rp_stream_take(struct rp_record_stream *stream, uint32_t size)
{
    stream->in_at += LENGTH_BYTES + size;
}

bool rp_stream_is_broken(const struct rp_record_stream *stream)
{
    return stream->in_end - stream->in_at >= LENGTH_BYTES &&
           load_32(stream->in + stream->in_at) > RP_RECORD_BYTES_MAX;
}

uint8_t *rp_stream_room(struct rp_record_stream *stream)
{
    if (sizeof(stream->out) - stream->out_end < LENGTH_BYTES + RP_RECORD_BYTES_MAX)
        return NULL;
    return stream->out + stream->out_end + LENGTH_BYTES;
}

int rp_stream_send(struct rp_record_stream *stream, uint32_t size)
{
    store_32(stream->out + stream->out_end, size);
    stream->out_end += LENGTH_BYTES + size;
    ssize_t sent = send(stream->fd, stream->out + stream->out_at, stream->out_end - stream->out_at,
                        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    stream->out_at += (uint32_t)sent;
    if (stream->out_at == stream->out_end)
        stream->out_at = stream->out_end = 0;
    return 0;
}
