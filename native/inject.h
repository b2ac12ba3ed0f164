#ifndef RP_INJECT_H
#define RP_INJECT_H
#include <stdbool.h>
#include <stdint.h>

/* Open a userfaultfd in a running process and take it over, leaving the process as it was.
 * tid: a thread of pid that may be stopped for a moment. syscall_address: a system call instruction
 * in its memory. -EAGAIN: the thread is in a restartable sequence, try again. -ETIMEDOUT: the
 * thread cannot be stopped, nothing was changed. -ENOSYS: not written for this processor. */
int rp_inject_uffd(int pid, int tid, uint64_t syscall_address, bool suspend_seccomp, int *uffd_ret);

#endif
