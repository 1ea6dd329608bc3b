/**
 * Numbers and layouts of the Linux interface that the data plane speaks, as 64-bit little-endian machines (x86-64, arm64) have them.
 * Sources: linux/if_tun.h, linux/virtio_net.h, linux/udp.h, linux/in.h, linux/in6.h, linux/rtnetlink.h, asm-generic/socket.h,
 * asm-generic/errno.h, asm-generic/poll.h, bits/socket.h of glibc.
 */

export const O_RDWR = 0x2
export const O_NONBLOCK = 0x800
export const O_CLOEXEC = 0x80000
export const F_GETFL = 3
export const F_SETFL = 4

export const EPERM = 1
export const ENOENT = 2
export const EINTR = 4
export const EIO = 5
export const ENXIO = 6
export const EBADF = 9
export const EAGAIN = 11
export const ENOMEM = 12
export const ENODEV = 19
export const EINVAL = 22
export const EBADFD = 77
export const EMSGSIZE = 90
export const EADDRINUSE = 98
export const ENOBUFS = 105

export const TUNSETIFF = 0x400454ca
export const TUNGETIFF = 0x800454d2
export const TUNSETOFFLOAD = 0x400454d0
export const IFF_TUN = 0x0001
export const IFF_NO_PI = 0x1000
export const IFF_VNET_HDR = 0x4000
export const TUN_F_CSUM = 0x01
export const TUN_F_TSO4 = 0x02
export const TUN_F_TSO6 = 0x04
export const TUN_F_USO4 = 0x20
export const TUN_F_USO6 = 0x40
export const IFNAMSIZ = 16
export const IFREQ_BYTES = 40
export const IFREQ_UNION_AT = 16

export const AF_INET = 2
export const AF_INET6 = 10
export const AF_NETLINK = 16
export const SOCK_DGRAM = 2
export const SOCK_RAW = 3
export const SOCK_NONBLOCK = 0x800
export const SOCK_CLOEXEC = 0x80000
export const SOL_IP = 0
export const SOL_SOCKET = 1
export const SOL_UDP = 17
export const SOL_IPV6 = 41
export const SO_SNDBUF = 7
export const SO_RCVBUF = 8
export const SO_SNDTIMEO = 21
export const SO_SNDBUFFORCE = 32
export const SO_RCVBUFFORCE = 33
export const SO_MARK = 36
export const UDP_SEGMENT = 103
export const UDP_GRO = 104
export const IP_TOS = 1
export const IP_RECVTOS = 13
export const IPV6_V6ONLY = 26
export const IPV6_RECVTCLASS = 66
export const IPV6_TCLASS = 67
export const MSG_CTRUNC = 0x08
export const MSG_TRUNC = 0x20
export const MSG_DONTWAIT = 0x40

/** struct sockaddr_in and sockaddr_in6: family u16, port big-endian, then the address at 4 or (behind the flow label) at 8. */
export const SOCKADDR4_BYTES = 16
export const SOCKADDR6_BYTES = 28

/**
 * struct msghdr: name at 0, its length at 8 (u32), iov at 16, count of iov at 24, control at 32, its length at 40, flags at 48 (i32).
 * struct iovec: base at 0, length at 8. struct cmsghdr: length at 0 (u64), level at 8, type at 12 (i32), data at 16; each begins at a multiple of 8.
 */
export const MSGHDR_BYTES = 56
export const MSG_NAMELEN_AT = 8
export const MSG_IOV_AT = 16
export const MSG_IOVLEN_AT = 24
export const MSG_CONTROL_AT = 32
export const MSG_CONTROLLEN_AT = 40
export const MSG_FLAGS_AT = 48
export const CMSG_HEADER_BYTES = 16

/** struct pollfd: descriptor i32, wanted events i16, events i16. */
export const POLLFD_BYTES = 8
export const POLLIN = 0x001
export const POLLERR = 0x008
export const POLLHUP = 0x010
export const POLLNVAL = 0x020

export const NETLINK_ROUTE = 0
export const RTM_NEWLINK = 16
export const NLM_F_REQUEST = 1
export const NLM_F_ACK = 4
export const IFLA_GSO_MAX_SIZE = 41
export const SIOCGIFINDEX = 0x8933

/** The largest IP packet, and the most that one UDP datagram (or one row of them) may carry over IPv4. */
export const MAX_PACKET_BYTES = 65_535
export const MAX_UDP_PAYLOAD_BYTES = 65_507
/** UDP_MAX_SEGMENTS of kernels up to 6.8; later ones take 128. */
export const MAX_UDP_SEGMENTS = 64
