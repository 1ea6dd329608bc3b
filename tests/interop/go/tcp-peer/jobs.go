package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"time"
)

// host is a TCP host of someone else.
type host interface {
	// inject takes a packet from the network; the bytes are used again after the call.
	inject(packet []byte)
	listen(port int, options options, accepted func(conn)) error
	dial(to netip.AddrPort, from int, options options) (conn, error)
}

// conn is a connection of it.
type conn interface {
	net.Conn
	CloseWrite() error
	// abort resets it.
	abort()
}

type options struct {
	ReceiveBuffer int `json:"receiveBuffer"`
	SendBuffer    int `json:"sendBuffer"`
	// Probes of an idle connection: silence and interval in seconds, unanswered probes.
	KeepIdle     int `json:"keepIdle"`
	KeepInterval int `json:"keepInterval"`
	KeepCount    int `json:"keepCount"`
}

// command is what to do with one connection, or with each that a listener accepts. Both directions are used at once.
type command struct {
	ID      int     `json:"id"`
	Op      string  `json:"op"` // listen, connect, resume
	Port    int     `json:"port"`
	To      string  `json:"to"`
	From    int     `json:"from"`
	Options options `json:"options"`
	// Send so many bytes of stream number Key, then FIN.
	Send int64 `json:"send"`
	Key  byte  `json:"key"`
	// Echo what comes instead.
	Echo bool `json:"echo"`
	// Hold: never FIN by itself, only once the other side has.
	Hold bool `json:"hold"`
	// Read nothing before a command of this number says resume.
	Paused bool `json:"paused"`
	// Reset after so many bytes have come.
	ResetAfter int64 `json:"resetAfter"`
	resumed    chan struct{}
}

type event struct {
	ID     int    `json:"id"`
	Event  string `json:"event"` // ready, listening, opened, done
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256,omitempty"`
	Error  string `json:"error,omitempty"`
	// Time from the start of the connection to the last byte that came.
	Ms float64 `json:"ms"`
}

// resumed holds a channel for each command that began paused; commands come one after the other.
var resumed = map[int]chan struct{}{}

func run(l *link, h host, c command) {
	if c.Paused {
		c.resumed = make(chan struct{})
		resumed[c.ID] = c.resumed
	}
	switch c.Op {
	case "resume":
		close(resumed[c.ID])
	case "listen":
		err := h.listen(c.Port, c.Options, func(conn conn) { go work(l, c, conn, time.Now()) })
		l.tell(event{ID: c.ID, Event: "listening", Error: text(err)})
	case "connect":
		go func() {
			begun := time.Now()
			to, err := netip.ParseAddrPort(c.To)
			if err != nil {
				fail(err)
			}
			conn, err := h.dial(to, c.From, c.Options)
			if err != nil {
				l.tell(event{ID: c.ID, Event: "done", Error: text(err)})
				return
			}
			work(l, c, conn, begun)
		}()
	}
}

// stream gives the bytes of a numbered stream: AES-128-CTR over zeros.
func stream(key byte) cipher.Stream {
	k := make([]byte, 16)
	for i := range k {
		k[i] = key
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		fail(err)
	}
	return cipher.NewCTR(block, make([]byte, 16))
}

func work(l *link, c command, conn conn, begun time.Time) {
	l.tell(event{ID: c.ID, Event: "opened"})
	written := make(chan error, 1)
	if c.Echo {
		written <- nil
	} else {
		go func() { written <- write(c, conn) }()
	}
	if c.Paused {
		<-c.resumed
	}
	result := event{ID: c.ID, Event: "done"}
	hash := sha256.New()
	buffer := make([]byte, 1<<16)
	var err error
	for {
		var n int
		n, err = conn.Read(buffer)
		if n > 0 {
			result.Ms = float64(time.Since(begun).Microseconds()) / 1000
		}
		hash.Write(buffer[:n])
		result.Bytes += int64(n)
		if c.Echo && n > 0 {
			if _, failed := conn.Write(buffer[:n]); failed != nil {
				err = failed
			}
		}
		if c.ResetAfter > 0 && result.Bytes >= c.ResetAfter {
			conn.abort()
			err = nil
			break
		}
		if err != nil {
			break
		}
	}
	if err == io.EOF {
		err = nil
	}
	if c.ResetAfter == 0 {
		if failed := <-written; err == nil {
			err = failed
		}
		if c.Echo || c.Hold {
			conn.CloseWrite()
		}
	}
	conn.Close()
	result.SHA256 = hex.EncodeToString(hash.Sum(nil))
	result.Error = text(err)
	l.tell(result)
}

func write(c command, conn conn) error {
	bytes := stream(c.Key)
	buffer := make([]byte, 1<<16)
	for left := c.Send; left > 0; {
		part := buffer[:min(left, int64(len(buffer)))]
		clear(part)
		bytes.XORKeyStream(part, part)
		if _, err := conn.Write(part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	if c.Hold {
		return nil
	}
	return conn.CloseWrite()
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
