#ifndef RP_INJECT_ARCH_H
#define RP_INJECT_ARCH_H
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

/* The registers of a stopped thread. All return a negative errno on failure. */
int rp_registers_read(pid_t tid, struct user_regs_struct *registers_ret);
int rp_registers_write(pid_t tid, const struct user_regs_struct *registers);

/* -ENOSYS when a call cannot be injected into such a thread (other processor, 32-bit code). */
int rp_registers_check(const struct user_regs_struct *registers);

/* Make the thread run the instruction at address as system call `number` when it goes on. */
void rp_registers_set_call(struct user_regs_struct *registers, uint64_t address, long number,
                           long argument);
/* What the call returned. */
long rp_registers_result(const struct user_regs_struct *registers);

#endif
