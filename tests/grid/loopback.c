/* Keep a server of the tests to itself: what xrootd has no setting for.

   - A socket bound to every address is bound to 127.0.0.1 instead.
   - As root, where no user namespace can be made, the server sees itself as another user: it refuses root.
   - It ends when the process that started it (TEST_XROOTD_PARENT) has ended.
   - TEST_XROOTD_ROOM names a file with the bytes left below TEST_XROOTD_STORE; a write of more
     than that fails with ENOSPC. Without the file there is no limit. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    struct sockaddr_in own;
    if (address->sa_family == AF_INET && length >= sizeof own) {
        memcpy(&own, address, sizeof own);
        if (own.sin_addr.s_addr == htonl(INADDR_ANY)) own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return REAL(bind)(fd, (struct sockaddr *)&own, sizeof own);
    }
    if (address->sa_family == AF_INET6) { /* the servers are started with -I v4 */
        errno = EADDRNOTAVAIL;
        return -1;
    }
    return REAL(bind)(fd, address, length);
}

/* The environment is read once: xrootd changes it while its threads run. */
static const char *room, *store;
static uid_t pretended;
static int pretending;

static void *watch(void *parent) {
    while (getppid() == (pid_t)(long)parent) usleep(300000);
    _exit(1);
}

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? strdup(value) : NULL;
}

__attribute__((constructor)) static void begin(void) {
    const char *parent = setting("TEST_XROOTD_PARENT"), *user = setting("TEST_XROOTD_UID");
    pthread_t thread;
    room = setting("TEST_XROOTD_ROOM");
    store = setting("TEST_XROOTD_STORE");
    pretending = user != NULL;
    pretended = user ? (uid_t)atoi(user) : 0;
    if (parent) pthread_create(&thread, NULL, watch, (void *)atol(parent));
}

uid_t getuid(void) { return pretending ? pretended : REAL(getuid)(); }
uid_t geteuid(void) { return pretending ? pretended : REAL(geteuid)(); }

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Whether there is room for `wanted` bytes in the file; they are taken off. */
static int has_room(int fd, size_t wanted) {
    char link[64], path[4096], text[32];
    if (!room || !store) return 1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 1;
    path[length] = 0;
    if (strncmp(path, store, strlen(store))) return 1;
    pthread_mutex_lock(&lock);
    int has = 1, file = open(room, O_RDWR);
    if (file >= 0) {
        ssize_t got = REAL(pread)(file, text, sizeof text - 1, 0);
        text[got > 0 ? got : 0] = 0;
        unsigned long long left = strtoull(text, NULL, 10);
        has = left >= wanted;
        if (has) {
            int size = snprintf(text, sizeof text, "%-20llu\n", left - wanted);
            has = REAL(pwrite)(file, text, size, 0) == size;
        }
        close(file);
    }
    pthread_mutex_unlock(&lock);
    return has;
}

static ssize_t full(void) {
    errno = ENOSPC;
    return -1;
}

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int index = 0; index < count; index++) sum += parts[index].iov_len;
    return sum;
}

ssize_t write(int fd, const void *bytes, size_t size) {
    return has_room(fd, size) ? REAL(write)(fd, bytes, size) : full();
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    return has_room(fd, size) ? REAL(pwrite)(fd, bytes, size, at) : full();
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    return has_room(fd, size) ? REAL(pwrite64)(fd, bytes, size, at) : full();
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return has_room(fd, total(parts, count)) ? REAL(writev)(fd, parts, count) : full();
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    return has_room(fd, total(parts, count)) ? REAL(pwritev)(fd, parts, count, at) : full();
}
