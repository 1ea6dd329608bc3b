package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const device = "peer0"

type kernelHost struct {
	tun        *os.File
	congestion string
}

type kernelConn struct {
	*net.TCPConn
}

func (c kernelConn) abort() {
	c.SetLinger(0)
	c.Close()
}

func newKernel(l *link, mtu int, addresses []string, congestion string) (host, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(device)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, fmt.Errorf("TUNSETIFF: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	commands := []string{"link set lo up", "link set " + device + " txqueuelen 10000 mtu " + strconv.Itoa(mtu)}
	for _, address := range addresses {
		commands = append(commands, "addr add "+address+" dev "+device+" nodad")
	}
	// Without the memory of earlier connections each is as fresh as those of the other hosts.
	settings := map[string]string{"ipv4/tcp_no_metrics_save": "1", "ipv6/conf/" + device + "/router_solicitations": "0"}
	for name, value := range settings {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
			return nil, err
		}
	}
	for _, command := range append(commands, "link set "+device+" up") {
		if said, err := exec.Command("ip", strings.Fields(strings.Replace(command, " nodad", noDad(command), 1))...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %s: %s", command, said)
		}
	}
	tun := os.NewFile(uintptr(fd), "tun")
	go func() {
		buffer := make([]byte, 1<<16)
		raw, err := tun.SyscallConn()
		if err != nil {
			fail(err)
		}
		raw.Read(func(fd uintptr) bool {
			// All that is there, then what was buffered leaves and the poller waits.
			for {
				n, err := unix.Read(int(fd), buffer)
				if err != nil {
					l.flush()
					return !errors.Is(err, unix.EAGAIN)
				}
				l.packet(buffer[:n])
			}
		})
	}()
	return &kernelHost{tun, congestion}, nil
}

// Only IPv6 knows the word.
func noDad(command string) string {
	if strings.Contains(command, ":") {
		return " nodad"
	}
	return ""
}

func (h *kernelHost) inject(packet []byte) {
	h.tun.Write(packet) // what the kernel refuses is lost, as on any line
}

func (h *kernelHost) control(options options) func(network, address string, raw syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var failed error
		set := func(fd uintptr, option, value int) {
			if value > 0 && failed == nil {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, value)
			}
		}
		err := raw.Control(func(fd uintptr) {
			set(fd, unix.SO_REUSEADDR, 1)
			// Of the socket: as a default only what the administrator allows may be set in a namespace.
			failed = errors.Join(failed, unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, h.congestion))
			set(fd, unix.SO_RCVBUF, options.ReceiveBuffer)
			set(fd, unix.SO_SNDBUF, options.SendBuffer)
		})
		return errors.Join(err, failed)
	}
}

func keepAlive(options options) net.KeepAliveConfig {
	return net.KeepAliveConfig{
		Enable:   options.KeepIdle > 0,
		Idle:     time.Duration(options.KeepIdle) * time.Second,
		Interval: time.Duration(options.KeepInterval) * time.Second,
		Count:    options.KeepCount,
	}
}

func (h *kernelHost) listen(port int, options options, accepted func(conn)) error {
	config := net.ListenConfig{Control: h.control(options), KeepAlive: -1, KeepAliveConfig: keepAlive(options)}
	listener, err := config.Listen(context.Background(), "tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	go func() {
		for {
			fresh, err := listener.Accept()
			if err != nil {
				return
			}
			accepted(kernelConn{fresh.(*net.TCPConn)})
		}
	}()
	return nil
}

func (h *kernelHost) dial(to netip.AddrPort, from int, options options) (conn, error) {
	dialer := net.Dialer{Control: h.control(options), KeepAlive: -1, KeepAliveConfig: keepAlive(options)}
	if from > 0 {
		dialer.LocalAddr = &net.TCPAddr{Port: from}
	}
	fresh, err := dialer.Dial("tcp", to.String())
	if err != nil {
		return nil, err
	}
	return kernelConn{fresh.(*net.TCPConn)}, nil
}
