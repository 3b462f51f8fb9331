/* Socket families and netlink protocols. */
#include "probe.h"

static long make_socket(const long *a) { return SYS(socket, a[0], a[1], a[2]); }
static long make_pair(const long *a) { return SYS(socketpair, a[0], a[1], a[2], word); }
/* The one call of the i386 ABI behind which all socket calls hide. */
static long by_socketcall(const long *a) {
    int *three = (int *)word;
    for (int i = 0; i < 3; i++) three[i] = (int)a[i];
    return i386(102, (const long[5]){1, (long)three, 0, 0, 0}, 0);
}

void sockets(void) {
    static const struct { const char *name; int type; } types[] = {
        {"stream", SOCK_STREAM}, {"dgram", SOCK_DGRAM}, {"raw", SOCK_RAW}, {"seqpacket", SOCK_SEQPACKET}};
    char name[80];
    for (int family = 0; family <= 45; family++) {
        for (int t = 0; t < COUNT(types); t++) {
            snprintf(name, sizeof name, "socket/past filter/family %02d/%s", family, types[t].name);
            passing(name, NATIVE, SYS_socket, family, types[t].type, 0);
            snprintf(name, sizeof name, "socket/made/family %02d/%s", family, types[t].name);
            try_it(name, make_socket, family, types[t].type, 0, 0);
            snprintf(name, sizeof name, "socket/made by socketcall/family %02d/%s", family, types[t].name);
            try_it(name, by_socketcall, family, types[t].type, 0, 0);
        }
        snprintf(name, sizeof name, "socket/pair past filter/family %02d", family);
        passing(name, NATIVE, SYS_socketpair, family, SOCK_STREAM, 0);
        snprintf(name, sizeof name, "socket/pair made/family %02d", family);
        try_it(name, make_pair, family, SOCK_STREAM, 0, 0);
    }
    for (int protocol = 0; protocol <= 22; protocol++) {
        snprintf(name, sizeof name, "netlink/past filter/protocol %02d", protocol);
        passing(name, NATIVE, SYS_socket, AF_NETLINK, SOCK_RAW, protocol);
        snprintf(name, sizeof name, "netlink/made/protocol %02d", protocol);
        try_it(name, make_socket, AF_NETLINK, SOCK_RAW, protocol, 0);
    }
    try_it("socket/made/packet, all protocols", make_socket, AF_PACKET, SOCK_RAW, 0x300, 0);
    try_it("socket/made/ICMP, raw", make_socket, AF_INET, SOCK_RAW, 1, 0);
    try_it("socket/made/ICMP, ping", make_socket, AF_INET, SOCK_DGRAM, 1, 0);
    try_it("socket/made/SCTP", make_socket, AF_INET, SOCK_STREAM, 132, 0);
    try_it("socket/made/MPTCP", make_socket, AF_INET, SOCK_STREAM, 262, 0);
}
