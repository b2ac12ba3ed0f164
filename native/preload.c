/* Loaded into a guest process by LD_PRELOAD. Opens a userfaultfd in that process and hands it to
 * whoever listens on the unix socket named by REPLICATOR_UFFD_SOCKET, then is gone: children of the
 * guest inherit neither variable. Whatever fails, the guest starts as if this file were not there;
 * the other side then sees no connection, or one without an fd. It also keeps the guest's heap from
 * being trimmed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_VARIABLE "REPLICATOR_UFFD_SOCKET"
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static int open_uffd(void)
{
    long uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0 && errno == EPERM)
        uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    return (int)uffd;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -1;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (peer >= 0 && connect(peer, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(peer);
        return -1;
    }
    return peer;
}

static void send_fd(int peer, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char mark = 'U';
    struct iovec body = {.iov_base = &mark, .iov_len = 1};
    struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1};
    message.msg_control = control.space;
    message.msg_controllen = sizeof(control.space);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
    (void)!sendmsg(peer, &message, MSG_NOSIGNAL);
}

__attribute__((constructor)) static void hand_over_uffd(void)
{
    const char *path = getenv(SOCKET_VARIABLE);
    if (path == NULL)
        return;
    int saved_errno = errno;
    int peer = connect_to(path);
    int uffd = open_uffd();
    if (peer >= 0 && uffd >= 0)
        send_fd(peer, uffd);
    if (peer >= 0)
        close(peer);
    if (uffd >= 0)
        close(uffd);
    unsetenv(SOCKET_VARIABLE);
    unsetenv("LD_PRELOAD");
    errno = saved_errno;
}

/* In place of the C library's, which gives free memory back to the kernel. QEMU has it done by a
 * thread of its own after each burst of changes to its tables, so after each save and load of a
 * device state, and the next one faults some 300 pages in again, in the midst of a pause. What is
 * kept are some MiB. */
__attribute__((visibility("default"))) int malloc_trim(size_t pad)
{
    (void)pad;
    return 0;
}
