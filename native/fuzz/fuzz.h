#ifndef RP_FUZZ_H
#define RP_FUZZ_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the drivers of libFuzzer have in common: numbers out of the input, copies that end where
 * their room ends, so that AddressSanitizer sees the first byte beyond it, and demands. A driver
 * knows the promises of one header and keeps an oracle of plain loops; it shares no code with what
 * it judges. */

/* What is left of the input. */
struct fuzz_input {
    const uint8_t *data;
    size_t left;
};

/* The next number of so many bytes, little endian; 0s stand for bytes that are not there. */
uint64_t fuzz_take(struct fuzz_input *input, unsigned int bytes);

/* Room for exactly so many bytes, each of them `filler`. The caller frees it; never NULL. */
void *fuzz_room(size_t bytes, uint8_t filler);
/* The same with a copy of these bytes. */
void *fuzz_copy(const void *from, size_t bytes);

/* Whether each of the bytes is `filler`. */
bool fuzz_is_filled(const void *room, size_t bytes, uint8_t filler);

void fuzz_fail(const char *what, const char *file, int line) __attribute__((noreturn));

/* What must hold; otherwise the input is a finding. */
#define DEMAND(holds) ((holds) ? (void)0 : fuzz_fail(#holds, __FILE__, __LINE__))

/* libFuzzer calls it with each input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
