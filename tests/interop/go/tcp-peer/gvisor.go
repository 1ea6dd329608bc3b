package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const nic = 1

type gvisorHost struct {
	stack *stack.Stack
	end   *channel.Endpoint
}

type gvisorConn struct {
	*gonet.TCPConn
	end tcpip.Endpoint
}

func (c gvisorConn) abort() {
	c.end.Abort()
	c.Close()
}

func newGvisor(l *link, mtu int, addresses []string, tuned bool) (host, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	sack := tcpip.TCPSACKEnabled(true)
	recovery, congestion := tcpip.TCPRecovery(0), tcpip.CongestionControlOption("reno")
	if tuned {
		recovery, congestion = tcpip.TCPRACKLossDetection, "cubic"
	}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultSendBufferSize, Max: 8 << 20}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultReceiveBufferSize, Max: 6 << 20}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &congestion, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return nil, fmt.Errorf("%T: %s", option, err)
		}
	}
	end := channel.New(1<<15, uint32(mtu), "")
	if err := s.CreateNIC(nic, end); err != nil {
		return nil, fmt.Errorf("NIC: %s", err)
	}
	for _, each := range addresses {
		address, err := netip.ParseAddr(each)
		if err != nil {
			return nil, err
		}
		with := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(address.AsSlice()), PrefixLen: address.BitLen()}
		if err := s.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: protocol(address), AddressWithPrefix: with}, stack.AddressProperties{}); err != nil {
			return nil, fmt.Errorf("%s: %s", address, err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	go func() {
		for {
			packet := end.Read()
			if packet == nil {
				l.flush()
				if packet = end.ReadContext(context.Background()); packet == nil {
					return
				}
			}
			view := packet.ToView()
			l.packet(view.AsSlice())
			view.Release()
			packet.DecRef()
		}
	}()
	return &gvisorHost{s, end}, nil
}

func protocol(address netip.Addr) tcpip.NetworkProtocolNumber {
	if address.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func (h *gvisorHost) inject(packet []byte) {
	if len(packet) == 0 {
		return
	}
	number := ipv4.ProtocolNumber
	if packet[0]>>4 == 6 {
		number = ipv6.ProtocolNumber
	}
	buf := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	h.end.InjectInbound(number, buf)
	buf.DecRef()
}

func (h *gvisorHost) endpoint(number tcpip.NetworkProtocolNumber, options options) (tcpip.Endpoint, *waiter.Queue, error) {
	var queue waiter.Queue
	end, err := h.stack.NewEndpoint(tcp.ProtocolNumber, number, &queue)
	if err != nil {
		return nil, nil, fmt.Errorf("%s", err)
	}
	end.SocketOptions().SetReuseAddress(true)
	if options.ReceiveBuffer > 0 {
		end.SocketOptions().SetReceiveBufferSize(int64(options.ReceiveBuffer), true)
	}
	if options.SendBuffer > 0 {
		end.SocketOptions().SetSendBufferSize(int64(options.SendBuffer), true)
	}
	return end, &queue, nil
}

func ready(end tcpip.Endpoint, queue *waiter.Queue, options options) conn {
	if options.KeepIdle > 0 {
		idle, interval := tcpip.KeepaliveIdleOption(time.Duration(options.KeepIdle)*time.Second), tcpip.KeepaliveIntervalOption(time.Duration(options.KeepInterval)*time.Second)
		end.SetSockOpt(&idle)
		end.SetSockOpt(&interval)
		end.SetSockOptInt(tcpip.KeepaliveCountOption, options.KeepCount)
		end.SocketOptions().SetKeepAlive(true)
	}
	return gvisorConn{gonet.NewTCPConn(queue, end), end}
}

func (h *gvisorHost) listen(port int, options options, accepted func(conn)) error {
	for _, number := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		end, queue, err := h.endpoint(number, options)
		if err != nil {
			return err
		}
		end.SocketOptions().SetV6Only(true)
		if err := end.Bind(tcpip.FullAddress{NIC: nic, Port: uint16(port)}); err != nil {
			return fmt.Errorf("bind: %s", err)
		}
		if err := end.Listen(1024); err != nil {
			return fmt.Errorf("listen: %s", err)
		}
		entry, news := waiter.NewChannelEntry(waiter.ReadableEvents)
		queue.EventRegister(&entry)
		go func() {
			for {
				fresh, freshQueue, err := end.Accept(nil)
				if _, wait := err.(*tcpip.ErrWouldBlock); wait {
					<-news
					continue
				}
				if err != nil {
					return
				}
				accepted(ready(fresh, freshQueue, options))
			}
		}()
	}
	return nil
}

func (h *gvisorHost) dial(to netip.AddrPort, from int, options options) (conn, error) {
	end, queue, err := h.endpoint(protocol(to.Addr()), options)
	if err != nil {
		return nil, err
	}
	if from > 0 {
		if err := end.Bind(tcpip.FullAddress{NIC: nic, Port: uint16(from)}); err != nil {
			return nil, fmt.Errorf("bind: %s", err)
		}
	}
	entry, done := waiter.NewChannelEntry(waiter.WritableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	failed := end.Connect(tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()})
	if _, started := failed.(*tcpip.ErrConnectStarted); started {
		<-done
		failed = end.LastError()
	}
	if failed != nil {
		end.Close()
		return nil, fmt.Errorf("%s", failed)
	}
	return ready(end, queue, options), nil
}
