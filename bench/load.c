/* The bench's load generator and its server: one binary, one thread, epoll.
 *
 * Owns: making load, and counting it. Refuses: anything but loopback, and any run without an end (every
 * client mode is under an alarm, the server ends with its stdin). It checks nothing but that bytes come back.
 *
 *   load serve ADDR                       prints "ready ADDR"; the first byte of a connection chooses:
 *                                         U discard what comes, D send without end, P echo
 *   load up|down ADDR STREAMS SECONDS     bulk, after a warm-up of a fifth of SECONDS
 *   load ping ADDR CONNECTIONS SECONDS    64 bytes to and fro, one in flight on each connection
 *   load connect ADDR CONCURRENCY SECONDS connect, one byte each way, close
 *   load hold ADDR CONNECTIONS            one byte each way, then silence until stdin ends
 *
 * ADDR: tcp:127.0.0.1:PORT (0: any, to serve), unix:PATH, vsock:1:PORT. A result is one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    CHUNK = 256 << 10,     /* bytes a send or recv: fits a core's L2 */
    CHUNKS_A_TURN = 4,     /* before the next ready stream has its turn */
    PING_BYTES = 64,
    EVENTS = 256,
    BACKLOG = 4096,
    FDS = 1 << 17,         /* highest file descriptor that the server keeps a mode for */
    WINDOW = 64,           /* connections that `hold` has in the making at once */
    SOURCES = 64,          /* client addresses 127.0.0.2 …: ports of one are too few, 60 s each in TIME_WAIT */
    SAMPLES = 8 << 20,     /* round trips remembered, at most */
    GRACE_SECONDS = 20,    /* beyond what a mode was told to take: then something hangs */
};

typedef struct {
    struct sockaddr_storage sa;
    socklen_t length;
    const char *text;
} Address;

static char buffer[CHUNK];
static struct epoll_event events[EVENTS];
static int poller;

static void fail(const char *what, const char *on)
{
    fprintf(stderr, "load: %s %s: %s\n", what, on, strerror(errno));
    exit(1);
}

static void refuse(const char *what, const char *on)
{
    fprintf(stderr, "load: %s: %s\n", on, what);
    exit(2);
}

static void on_alarm(int signal)
{
    static const char text[] = "load: no end in time: something on the way hangs\n";
    (void)signal;
    if (write(2, text, sizeof text - 1) < 0)
        _exit(4);
    _exit(3);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static Address parse(const char *text)
{
    Address a = {.text = text};
    char host[64];
    unsigned cid, port;
    if (sscanf(text, "tcp:%63[0-9.]:%u", host, &port) == 2 && port <= 65535) {
        struct sockaddr_in *in = (void *)&a.sa;
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        if (inet_pton(AF_INET, host, &in->sin_addr) != 1 || ntohl(in->sin_addr.s_addr) >> 24 != 127)
            refuse("loopback only", text);
        a.length = sizeof *in;
    } else if (!strncmp(text, "unix:", 5)) {
        struct sockaddr_un *un = (void *)&a.sa;
        un->sun_family = AF_UNIX;
        if (strlen(text + 5) >= sizeof un->sun_path)
            refuse("path too long for a Unix socket", text);
        strcpy(un->sun_path, text + 5);
        a.length = sizeof *un;
    } else if (sscanf(text, "vsock:%u:%u", &cid, &port) == 2) {
        struct sockaddr_vm *vm = (void *)&a.sa;
        vm->svm_family = AF_VSOCK;
        vm->svm_cid = cid;
        vm->svm_port = port;
        if (cid != 1) /* VMADDR_CID_LOCAL */
            refuse("loopback only", text);
        a.length = sizeof *vm;
    } else
        refuse("not an address (tcp:127.0.0.1:PORT, unix:PATH, vsock:1:PORT)", text);
    return a;
}

static void no_delay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* fails on other families: no matter */
}

static void watch(int operation, int fd, uint32_t what)
{
    struct epoll_event e = {.events = what, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &e) < 0)
        fail("epoll", "ctl");
}

static int wait_events(int milliseconds)
{
    int n = epoll_wait(poller, events, EVENTS, milliseconds);
    if (n < 0 && errno != EINTR)
        fail("epoll", "wait");
    return n < 0 ? 0 : n;
}

/* ---- server */

static void turn(int fd, char *mode)
{
    ssize_t n;
    if (*mode == 'D') {
        for (int i = 0; i < CHUNKS_A_TURN; i++)
            if ((n = send(fd, buffer, CHUNK, MSG_NOSIGNAL)) < CHUNK)
                break;
        if (n < 0 && errno != EAGAIN)
            close(fd);
        return;
    }
    for (int i = 0; i < CHUNKS_A_TURN; i++) {
        if ((n = recv(fd, buffer, CHUNK, 0)) <= 0)
            break;
        if (!*mode) {
            *mode = buffer[0];
            if (*mode == 'D') {
                watch(EPOLL_CTL_MOD, fd, EPOLLOUT | EPOLLRDHUP);
                return;
            }
        }
        if (*mode == 'P' && send(fd, buffer, n, MSG_NOSIGNAL) < n)
            n = 0; /* its reader does not read: no part of a ping */
        if (n < CHUNK)
            break;
    }
    if (n == 0 || (n < 0 && errno != EAGAIN))
        close(fd);
}

static void serve(Address a)
{
    static char modes[FDS];
    int listener = socket(a.sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (void *)&a.sa, a.length) < 0 || listen(listener, BACKLOG) < 0)
        fail("listen on", a.text);
    if (a.sa.ss_family == AF_INET) {
        struct sockaddr_in *in = (void *)&a.sa;
        getsockname(listener, (void *)in, &a.length);
        printf("ready tcp:%s:%u\n", inet_ntoa(in->sin_addr), ntohs(in->sin_port));
    } else
        printf("ready %s\n", a.text);
    fflush(stdout);
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    watch(EPOLL_CTL_ADD, 0, EPOLLIN);
    for (;;) {
        int count = wait_events(-1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == 0)
                return;
            if (fd != listener) {
                if (modes[fd] == 'D' && events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                    close(fd);
                else
                    turn(fd, &modes[fd]);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                if (fd >= FDS)
                    refuse("too many file descriptors", a.text);
                no_delay(fd);
                modes[fd] = 0;
                watch(EPOLL_CTL_ADD, fd, EPOLLIN);
            }
            if (errno != EAGAIN && errno != ECONNABORTED)
                fail("accept on", a.text);
        }
    }
}

/* ---- clients */

static int dial(const Address *a)
{
    static unsigned turns;
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0)
        fail("socket for", a->text);
    if (a->sa.ss_family == AF_INET) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + turns++ % SOURCES);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(fd, (void *)&from, sizeof from) < 0)
            fail("bind a client of", a->text);
        no_delay(fd);
    }
    /* Blocking: on loopback the handshake is done when connect returns; a full backlog is the alarm's. */
    if (connect(fd, (void *)&a->sa, a->length) < 0)
        fail("connect to", a->text);
    return fd;
}

static void say(int fd, const char *bytes, size_t n, const Address *a)
{
    if (send(fd, bytes, n, MSG_NOSIGNAL) != (ssize_t)n)
        fail("send to", a->text);
}

static int start(const Address *a, char mode, uint32_t what)
{
    int fd = dial(a);
    say(fd, &mode, 1, a);
    watch(EPOLL_CTL_ADD, fd, what);
    return fd;
}

static void bulk(const Address *a, char mode, int streams, double seconds)
{
    uint64_t total = 0, at_begin = 0;
    double begin, end, began = 0, t;
    for (int i = 0; i < streams; i++)
        start(a, mode, mode == 'U' ? EPOLLOUT : EPOLLIN);
    begin = now() + seconds / 5; /* not before: an emulated kernel may take as long to connect */
    end = begin + seconds;
    do {
        int count = wait_events(100);
        for (int i = 0; i < count; i++)
            for (int j = 0; j < CHUNKS_A_TURN; j++) {
                int fd = events[i].data.fd;
                ssize_t n = mode == 'U' ? send(fd, buffer, CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL)
                                        : recv(fd, buffer, CHUNK, MSG_DONTWAIT);
                if (n > 0)
                    total += n;
                if (n < 0 && errno != EAGAIN)
                    fail("bulk through", a->text);
                if (n == 0) {
                    errno = ECONNRESET;
                    fail("end of stream from", a->text);
                }
                if (n < CHUNK)
                    break;
            }
        t = now();
        if (!began && t >= begin) {
            began = t;
            at_begin = total;
        }
    } while (t < end || t == began);
    printf("{\"bytes\": %llu, \"rate\": %.0f}\n", (unsigned long long)total, (total - at_begin) / (t - began));
}

static int ascending(const void *a, const void *b)
{
    return (*(uint32_t *)a > *(uint32_t *)b) - (*(uint32_t *)a < *(uint32_t *)b);
}

static void ping(const Address *a, int connections, double seconds)
{
    static struct {
        double sent;
        int got;
    } flight[FDS];
    uint32_t *samples = malloc(SAMPLES * sizeof *samples);
    uint64_t n = 0;
    double begin, end, t = 0;
    memset(buffer, 'P', PING_BYTES);
    for (int i = 0; i < connections; i++) {
        int fd = dial(a);
        watch(EPOLL_CTL_ADD, fd, EPOLLIN);
        flight[fd].sent = now();
        say(fd, buffer, PING_BYTES, a);
    }
    begin = now() + seconds / 5;
    end = begin + seconds;
    while (t < end && n < SAMPLES) {
        int count = wait_events(100);
        t = now();
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            ssize_t got = recv(fd, buffer, PING_BYTES - flight[fd].got, MSG_DONTWAIT);
            if (got <= 0)
                fail("ping through", a->text);
            if ((flight[fd].got += got) < PING_BYTES)
                continue;
            t = now();
            if (t > begin && n < SAMPLES)
                samples[n++] = (t - flight[fd].sent) * 1e9;
            flight[fd].got = 0;
            flight[fd].sent = t;
            say(fd, buffer, PING_BYTES, a);
        }
    }
    if (!n) {
        errno = ETIMEDOUT;
        fail("ping through", a->text);
    }
    qsort(samples, n, sizeof *samples, ascending);
    printf("{\"count\": %llu, \"p50\": %.3f, \"p99\": %.3f}\n", (unsigned long long)n, samples[n / 2] / 1e3,
           samples[n * 99 / 100] / 1e3);
}

/* Opens connections, `concurrency` at once, exchanges a byte; closes them, or keeps them, until `limit` or `end`. */
static uint64_t open_many(const Address *a, int concurrency, uint64_t limit, double end, int keep)
{
    uint64_t opened = 0, done = 0;
    for (; opened < (uint64_t)concurrency && opened < limit; opened++)
        start(a, 'P', EPOLLIN);
    while (done < opened) {
        int count = wait_events(100), more = now() < end;
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (recv(fd, buffer, 1, MSG_DONTWAIT) != 1)
                fail("one byte from", a->text);
            if (keep)
                watch(EPOLL_CTL_DEL, fd, 0);
            else
                close(fd);
            done++;
            if (more && opened < limit) {
                start(a, 'P', EPOLLIN);
                opened++;
            }
        }
    }
    return done;
}

static void connect_rate(const Address *a, int concurrency, double seconds)
{
    uint64_t warm = open_many(a, concurrency, UINT64_MAX, now() + seconds / 5, 0);
    double begin = now();
    uint64_t done = open_many(a, concurrency, UINT64_MAX, begin + seconds, 0);
    printf("{\"connections\": %llu, \"rate\": %.1f}\n", (unsigned long long)(warm + done), done / (now() - begin));
}

static void hold(const Address *a, int connections)
{
    printf("{\"held\": %llu}\n", (unsigned long long)open_many(a, WINDOW, connections, now() + 600, 1));
    fflush(stdout);
    alarm(120);
    while (read(0, buffer, 1) > 0)
        ;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[1] : "";
    int count = argc > 3 ? atoi(argv[3]) : 0;
    double seconds = argc > 4 ? atof(argv[4]) : 0;
    signal(SIGALRM, on_alarm);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!strcmp(mode, "serve") && argc == 3) {
        serve(parse(argv[2]));
        return 0;
    }
    if (count < 1 || count > FDS / 2 || seconds < 0 || seconds > 60 || (argc == 5) != (seconds > 0))
        refuse("serve ADDR | up, down, ping, connect ADDR COUNT SECONDS | hold ADDR COUNT", "usage");
    Address a = parse(argv[2]);
    alarm((unsigned)(seconds * 1.2) + GRACE_SECONDS + count / 200);
    if (!strcmp(mode, "hold") && argc == 4)
        hold(&a, count);
    else if (!strcmp(mode, "up") && argc == 5)
        bulk(&a, 'U', count, seconds);
    else if (!strcmp(mode, "down") && argc == 5)
        bulk(&a, 'D', count, seconds);
    else if (!strcmp(mode, "ping") && argc == 5)
        ping(&a, count, seconds);
    else if (!strcmp(mode, "connect") && argc == 5)
        connect_rate(&a, count, seconds);
    else
        refuse("no such mode", mode);
    return 0;
}
