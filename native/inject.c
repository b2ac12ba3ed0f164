/* System call injection by ptrace.
 *
 * The tracer is a child made for this one call: nobody else's waitpid can take its stops (a Python
 * process has child watchers), and when our process is killed half way it still puts the thread
 * back. It shares our file table, so the descriptor it takes over is ours at once.
 *
 * Only ptrace's own stops are used, never a SIGTRAP. A signal that the thread takes between our
 * attaching and our interrupt is passed on first; from then on all signals of the thread are
 * blocked: none is lost, none is delivered into the injected call, and no disposition changes. The
 * registers go back while the thread stands in a signal stop; from there the kernel restarts an
 * interrupted system call as after any other stop. */
#define _GNU_SOURCE
#include "inject.h"
#include "inject_arch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES (64 * 1024)
/* For one stop; a thread needs microseconds unless it sleeps uninterruptibly or runs astray. */
#define STOP_SECONDS 2
#define SYSCALL_STOP (SIGTRAP | 0x80)
#define NS_PER_S 1000000000L

/* linux/ptrace.h, which cannot be included beside sys/ptrace.h. */
#define GET_SIGMASK 0x420a
#define SET_SIGMASK 0x420b
#define GET_RSEQ 0x420f
#define SUSPEND_SECCOMP (1 << 21)
#define UFFD_USER_MODE_ONLY 1

struct rseq_place {
    uint64_t pointer;
    uint32_t size;
    uint32_t signature;
    uint32_t flags;
    uint32_t pad;
};

/* Shared between us and the tracer. */
struct injection {
    pid_t pid;
    pid_t tid;
    uint64_t address;
    bool suspend_seccomp;
    bool saw_sigstop;
    int uffd;
    int code;
};

static struct timespec now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time;
}

static struct timespec deadline_of_stop(void)
{
    struct timespec end = now();
    end.tv_sec += STOP_SECONDS;
    return end;
}

/* Sleep until a child changes or the time comes (NULL: never); -ETIMEDOUT then. */
static int wait_change(const struct timespec *end)
{
    struct timespec left = now();
    sigset_t change;
    sigemptyset(&change);
    sigaddset(&change, SIGCHLD);
    if (end == NULL) {
        (void)sigwaitinfo(&change, NULL);
        return 0;
    }
    left.tv_sec = end->tv_sec - left.tv_sec;
    left.tv_nsec = end->tv_nsec - left.tv_nsec;
    if (left.tv_nsec < 0) {
        left.tv_sec--;
        left.tv_nsec += NS_PER_S;
    }
    if (left.tv_sec < 0)
        return -ETIMEDOUT;
    (void)sigtimedwait(&change, NULL, &left);
    return 0;
}

/* The next stop of the thread. -ETIMEDOUT: it runs, or sleeps uninterruptibly. */
static int wait_stop(pid_t tid, const struct timespec *end, int *status_ret)
{
    for (;;) {
        pid_t found = waitpid(tid, status_ret, __WALL | WNOHANG);
        if (found < 0)
            return -errno;
        if (found == tid)
            return WIFSTOPPED(*status_ret) ? 0 : -ESRCH;
        int code = wait_change(end);
        if (code != 0)
            return code;
    }
}

static bool is_syscall_stop(int status) { return WSTOPSIG(status) == SYSCALL_STOP; }

/* Our own interrupt, with SIGTRAP or, in a stopped process, with the signal that stopped it. */
static bool is_event_stop(int status) { return status >> 16 == PTRACE_EVENT_STOP; }

/* Attach, and stop the thread where the kernel would deliver a signal. A signal that came first is
 * delivered; the interrupt stops the thread again before the first instruction of its handler. */
static int stop_thread(const struct injection *injection)
{
    long options = PTRACE_O_TRACESYSGOOD | (injection->suspend_seccomp ? SUSPEND_SECCOMP : 0);
    struct timespec end = deadline_of_stop();
    if (ptrace(PTRACE_SEIZE, injection->tid, 0, options) != 0)
        return -errno;
    if (ptrace(PTRACE_INTERRUPT, injection->tid, 0, 0) != 0)
        return -errno;
    for (;;) {
        int status;
        int code = wait_stop(injection->tid, &end, &status);
        if (code != 0 || is_event_stop(status))
            return code;
        if (ptrace(PTRACE_CONT, injection->tid, 0, WSTOPSIG(status)) != 0)
            return -errno;
    }
}

/* Let the thread run to a wanted stop. SIGSTOP cannot be blocked: it is put off until the thread is
 * whole again. */
static int run_until(struct injection *injection, bool (*is_wanted)(int status),
                     const struct timespec *end)
{
    for (;;) {
        int status;
        /* ESRCH: it runs already or is gone; the wait tells which. */
        if (ptrace(PTRACE_SYSCALL, injection->tid, 0, 0) != 0 && errno != ESRCH)
            return -errno;
        int code = wait_stop(injection->tid, end, &status);
        if (code != 0 || is_wanted(status))
            return code;
        if (status >> 8 == SIGSTOP)
            injection->saw_sigstop = true;
    }
}

static int call(struct injection *injection, long number, long argument, long *result_ret)
{
    struct user_regs_struct registers;
    struct timespec end = deadline_of_stop();
    int code = rp_registers_read(injection->tid, &registers);
    if (code != 0)
        return code;
    rp_registers_set_call(&registers, injection->address, number, argument);
    if ((code = rp_registers_write(injection->tid, &registers)) != 0 ||
        (code = run_until(injection, is_syscall_stop, &end)) != 0 ||
        (code = run_until(injection, is_syscall_stop, &end)) != 0 ||
        (code = rp_registers_read(injection->tid, &registers)) != 0)
        return code;
    *result_ret = rp_registers_result(&registers);
    return 0;
}

static int take_fd(struct injection *injection, int theirs)
{
    int pidfd = (int)syscall(SYS_pidfd_open, injection->pid, 0);
    if (pidfd < 0)
        return -errno;
    int ours = (int)syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
    int code = ours < 0 ? -errno : 0;
    close(pidfd);
    injection->uffd = ours;
    return code;
}

static int open_there(struct injection *injection, long *fd_ret)
{
    long flags = O_CLOEXEC | O_NONBLOCK;
    int code = call(injection, SYS_userfaultfd, flags, fd_ret);
    if (code == 0 && *fd_ret == -EPERM)
        code = call(injection, SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY, fd_ret);
    if (code != 0)
        return code;
    return *fd_ret < 0 ? (int)*fd_ret : 0;
}

static int steal_uffd(struct injection *injection)
{
    long theirs;
    long ignored;
    int code = open_there(injection, &theirs);
    if (code != 0)
        return code;
    code = take_fd(injection, (int)theirs);
    int close_code = call(injection, SYS_close, theirs, &ignored);
    return code != 0 ? code : close_code;
}

/* In a restartable sequence the kernel would forget the abort address while we borrow the thread.
 */
static int check_rseq(pid_t tid)
{
    struct rseq_place place = {0};
    if (ptrace(GET_RSEQ, tid, sizeof(place), &place) < 0 || place.pointer == 0)
        return 0;
    errno = 0;
    long sequence = ptrace(PTRACE_PEEKDATA, tid, place.pointer + sizeof(uint64_t), 0);
    return sequence != 0 && errno == 0 ? -EAGAIN : 0;
}

static int borrow_thread(struct injection *injection)
{
    struct user_regs_struct registers;
    uint64_t mask;
    uint64_t all = UINT64_MAX;
    pid_t tid = injection->tid;
    int code = rp_registers_read(tid, &registers);
    if (code != 0 || (code = rp_registers_check(&registers)) != 0 || (code = check_rseq(tid)) != 0)
        return code;
    if (ptrace(GET_SIGMASK, tid, sizeof(mask), &mask) != 0 ||
        ptrace(SET_SIGMASK, tid, sizeof(all), &all) != 0)
        return -errno;
    code = steal_uffd(injection);
    /* The one wait without an end: a thread that is given up here would run astray. */
    if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) != 0 || run_until(injection, is_event_stop, NULL) != 0)
        return -ESRCH;
    int restore_code = rp_registers_write(tid, &registers);
    if (ptrace(SET_SIGMASK, tid, sizeof(mask), &mask) != 0)
        return -errno;
    return code != 0 ? code : restore_code;
}

static int trace(void *argument)
{
    struct injection *injection = argument;
    signal(SIGCHLD, SIG_DFL); /* Ignored, it would not wake us. */
    injection->code = stop_thread(injection);
    if (injection->code != 0)
        return 0; /* Our end detaches a thread that we never stopped. */
    injection->code = borrow_thread(injection);
    ptrace(PTRACE_DETACH, injection->tid, 0, 0);
    if (injection->saw_sigstop)
        kill(injection->pid, SIGSTOP);
    return 0;
}

/* Without an exit signal the tracer is invisible to everybody who waits for any child, and it is
 * not gone by itself when SIGCHLD is ignored. */
static int run_tracer(struct injection *injection)
{
    sigset_t all;
    sigset_t before;
    int code = 0;
    char *stack = malloc(STACK_BYTES);
    if (stack == NULL)
        return -ENOMEM;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pid_t tracer = clone(trace, stack + STACK_BYTES, CLONE_FILES, injection);
    if (tracer < 0 || waitpid(tracer, NULL, __WALL) < 0)
        code = -errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    free(stack);
    return code;
}

int rp_inject_uffd(int pid, int tid, uint64_t syscall_address, bool suspend_seccomp, int *uffd_ret)
{
    struct injection *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -errno;
    *shared = (struct injection){.pid = pid, .tid = tid, .address = syscall_address, .uffd = -1};
    shared->suspend_seccomp = suspend_seccomp;
    shared->code = -ECHILD; /* What stays when the tracer is killed. */
    int code = run_tracer(shared);
    if (code == 0)
        code = shared->code;
    if (code == 0)
        *uffd_ret = shared->uffd;
    else if (shared->uffd >= 0)
        close(shared->uffd);
    munmap(shared, sizeof(*shared));
    return code;
}
