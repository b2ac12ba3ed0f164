#include "inject_arch.h"

#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

int rp_registers_read(pid_t tid, struct user_regs_struct *registers_ret)
{
    struct iovec all = {.iov_base = registers_ret, .iov_len = sizeof(*registers_ret)};
    return ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &all) == 0 ? 0 : -errno;
}

int rp_registers_write(pid_t tid, const struct user_regs_struct *registers)
{
    struct user_regs_struct copy = *registers;
    struct iovec all = {.iov_base = &copy, .iov_len = sizeof(copy)};
    return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &all) == 0 ? 0 : -errno;
}

#if defined(__x86_64__)

/* Code segment selector of 64-bit user code on Linux. */
#define USER_CODE_64 0x33

int rp_registers_check(const struct user_regs_struct *registers)
{
    return registers->cs == USER_CODE_64 ? 0 : -ENOSYS;
}

void rp_registers_set_call(struct user_regs_struct *registers, uint64_t address, long number,
                           long argument)
{
    registers->rip = address;
    registers->rax = (unsigned long)number;
    registers->rdi = (unsigned long)argument;
    /* Not in a system call: the kernel must not restart the one that was interrupted. */
    registers->orig_rax = (unsigned long)-1;
}

long rp_registers_result(const struct user_regs_struct *registers) { return (long)registers->rax; }

#else

int rp_registers_check(const struct user_regs_struct *registers)
{
    (void)registers;
    return -ENOSYS;
}

void rp_registers_set_call(struct user_regs_struct *registers, uint64_t address, long number,
                           long argument)
{
    (void)registers, (void)address, (void)number, (void)argument;
}

long rp_registers_result(const struct user_regs_struct *registers)
{
    (void)registers;
    return -ENOSYS;
}

#endif
