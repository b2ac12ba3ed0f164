#include "frame_message.h"

#include <string.h>

#define SESSION_BYTES 16
#define NUMBER_MAX ((uint64_t)INT64_MAX)
#define NICS_MAX 32
#define ROWS_MAX 256
#define FRAME_BYTES_MAX 65536
/* Of the frames of a batch together, unless it has only one. */
#define BATCH_BYTES_MAX (64 << 10)
#define MESSAGE_BYTES_MAX (96 << 10)

/* msgpack. */
#define FIXARRAY 0x90
#define FIXARRAY_MAX 15
#define FIXSTR 0xa0
#define FIXINT_MAX 0x7f
#define BIN8 0xc4
#define UINT8 0xcc
#define ARRAY16 0xdc

static const struct {
    enum rp_message_kind kind;
    uint8_t fields;
    uint8_t name_bytes;
    const char *name;
} kinds[] = {
    {RP_MESSAGE_INPUT_BATCH, 5, 11, "input-batch"},
    {RP_MESSAGE_OUTPUT_BATCH, 6, 12, "output-batch"},
    {RP_MESSAGE_INPUTS_LOGGED, 4, 13, "inputs-logged"},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* Reading: what has gone wrong stays so. */
struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
};

static const uint8_t *take(struct reader *reader, size_t size)
{
    const uint8_t *taken = reader->at;
    if (reader->failed || (size_t)(reader->end - reader->at) < size) {
        reader->failed = true;
        return NULL;
    }
    reader->at += size;
    return taken;
}

static uint64_t take_big_endian(struct reader *reader, size_t size)
{
    const uint8_t *bytes = take(reader, size);
    uint64_t value = 0;
    for (size_t i = 0; bytes != NULL && i < size; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* One of 8, 16, 32 or 64 bits, whose tags follow each other. */
static uint64_t take_sized(struct reader *reader, uint8_t tag, uint8_t tag8, uint8_t tags)
{
    if (tag < tag8 || tag >= tag8 + tags) {
        reader->failed = true;
        return 0;
    }
    return take_big_endian(reader, (size_t)1 << (tag - tag8));
}

static uint64_t take_number(struct reader *reader, uint64_t least, uint64_t most)
{
    const uint8_t *tag = take(reader, 1);
    uint64_t value = 0;
    if (tag != NULL)
        value = *tag <= FIXINT_MAX ? *tag : take_sized(reader, *tag, UINT8, 4);
    if (value < least || value > most)
        reader->failed = true;
    return value;
}

static const uint8_t *take_bytes(struct reader *reader, uint64_t least, uint64_t most,
                                 uint32_t *size_ret)
{
    const uint8_t *tag = take(reader, 1);
    uint64_t size = tag == NULL ? 0 : take_sized(reader, *tag, BIN8, 3);
    *size_ret = 0;
    if (reader->failed || size < least || size > most) {
        reader->failed = true;
        return NULL;
    }
    *size_ret = (uint32_t)size;
    return take(reader, size);
}

static enum rp_message_kind take_kind(struct reader *reader)
{
    const uint8_t *head = take(reader, 2);
    for (size_t i = 0; head != NULL && i < KINDS; i++) {
        if (head[0] != (FIXARRAY | kinds[i].fields) || head[1] != (FIXSTR | kinds[i].name_bytes))
            continue;
        const uint8_t *name = take(reader, kinds[i].name_bytes);
        if (name != NULL && memcmp(name, kinds[i].name, kinds[i].name_bytes) == 0)
            return kinds[i].kind;
        return RP_MESSAGE_OTHER;
    }
    return RP_MESSAGE_OTHER;
}

static uint32_t take_row_count(struct reader *reader)
{
    const uint8_t *tag = take(reader, 1);
    uint64_t count = 0;
    if (tag != NULL && *tag == ARRAY16)
        count = take_big_endian(reader, 2);
    else if (tag != NULL && (*tag & ~FIXARRAY_MAX) == FIXARRAY)
        count = *tag & FIXARRAY_MAX;
    if (count == 0 || count > ROWS_MAX)
        reader->failed = true;
    return reader->failed ? 0 : (uint32_t)count;
}

static void take_rows(struct reader *reader, struct rp_message *message)
{
    uint64_t bytes = 0;
    message->row_count = take_row_count(reader);
    for (uint32_t i = 0; i < message->row_count && !reader->failed; i++) {
        struct rp_message_row *row = &message->rows[i];
        const uint8_t *tag = take(reader, 1);
        if (tag == NULL || *tag != (FIXARRAY | 2))
            reader->failed = true;
        row->nic = (uint32_t)take_number(reader, 0, NICS_MAX - 1);
        row->data = take_bytes(reader, 1, FRAME_BYTES_MAX, &row->size);
        bytes += row->size;
    }
    if (message->row_count > 1 && bytes > BATCH_BYTES_MAX)
        reader->failed = true;
}

enum rp_message_kind rp_message_read(const uint8_t *data, uint32_t size,
                                     struct rp_message *message_ret)
{
    struct reader reader = {data, data + size, size > MESSAGE_BYTES_MAX};
    struct rp_message *message = message_ret;
    uint32_t session_bytes;
    message->kind = take_kind(&reader);
    message->row_count = 0;
    if (message->kind == RP_MESSAGE_OTHER)
        return RP_MESSAGE_OTHER;
    const uint8_t *session = take_bytes(&reader, SESSION_BYTES, SESSION_BYTES, &session_bytes);
    if (session != NULL)
        memcpy(message->session, session, SESSION_BYTES);
    message->number = take_number(&reader, 1, NUMBER_MAX);
    message->epoch =
        message->kind == RP_MESSAGE_OUTPUT_BATCH ? take_number(&reader, 1, NUMBER_MAX) : 0;
    message->seq = take_number(&reader, message->kind == RP_MESSAGE_INPUT_BATCH, NUMBER_MAX);
    if (message->kind != RP_MESSAGE_INPUTS_LOGGED)
        take_rows(&reader, message);
    if (reader.failed || reader.at != reader.end)
        message->kind = RP_MESSAGE_OTHER;
    return message->kind;
}

/* Writing: what finds no room is not written, and `at` is NULL. */
struct writer {
    uint8_t *at;
    const uint8_t *end;
};

static void put(struct writer *writer, const void *bytes, size_t size)
{
    if (writer->at == NULL || (size_t)(writer->end - writer->at) < size) {
        writer->at = NULL;
        return;
    }
    memcpy(writer->at, bytes, size);
    writer->at += size;
}

static void put_byte(struct writer *writer, uint8_t byte) { put(writer, &byte, 1); }

static void put_big_endian(struct writer *writer, uint64_t value, size_t size)
{
    uint8_t bytes[sizeof(value)];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> 8 * (size - 1 - i));
    put(writer, bytes, size);
}

/* In the fewest bytes. */
static void put_sized(struct writer *writer, uint8_t tag8, uint64_t value)
{
    uint8_t step = value <= UINT8_MAX ? 0 : value <= UINT16_MAX ? 1 : value <= UINT32_MAX ? 2 : 3;
    put_byte(writer, tag8 + step);
    put_big_endian(writer, value, (size_t)1 << step);
}

static void put_number(struct writer *writer, uint64_t value)
{
    if (value <= FIXINT_MAX)
        put_byte(writer, (uint8_t)value);
    else
        put_sized(writer, UINT8, value);
}

static void put_bytes(struct writer *writer, const void *bytes, uint32_t size)
{
    put_sized(writer, BIN8, size);
    put(writer, bytes, size);
}

static void put_head(struct writer *writer, const struct rp_message *message)
{
    for (size_t i = 0; i < KINDS; i++) {
        if (kinds[i].kind != message->kind)
            continue;
        put_byte(writer, FIXARRAY | kinds[i].fields);
        put_byte(writer, FIXSTR | kinds[i].name_bytes);
        put(writer, kinds[i].name, kinds[i].name_bytes);
    }
    put_bytes(writer, message->session, SESSION_BYTES);
    put_number(writer, message->number);
}

static void put_rows(struct writer *writer, const struct rp_message *message)
{
    if (message->row_count <= FIXARRAY_MAX) {
        put_byte(writer, (uint8_t)(FIXARRAY | message->row_count));
    } else {
        put_byte(writer, ARRAY16);
        put_big_endian(writer, message->row_count, 2);
    }
    for (uint32_t i = 0; i < message->row_count; i++) {
        put_byte(writer, FIXARRAY | 2);
        put_number(writer, message->rows[i].nic);
        put_bytes(writer, message->rows[i].data, message->rows[i].size);
    }
}

uint32_t rp_message_write(const struct rp_message *message, uint8_t *out, uint32_t room)
{
    struct writer writer = {out, out + room};
    put_head(&writer, message);
    if (message->kind == RP_MESSAGE_OUTPUT_BATCH)
        put_number(&writer, message->epoch);
    put_number(&writer, message->seq);
    if (message->kind != RP_MESSAGE_INPUTS_LOGGED)
        put_rows(&writer, message);
    return writer.at == NULL ? 0 : (uint32_t)(writer.at - out);
}
