// tcp-peer is a host with TCP of someone else: gVisor's, or the kernel's in a network namespace of its own (run it under "unshare -n").
//
//	tcp-peer [-tuned] gvisor MTU ADDRESS...
//	tcp-peer [-congestion NAME] kernel MTU ADDRESS/BITS...
//
// Its network is its standard input and output: frames of four bytes, big-endian, and what follows. With the highest bit set the other bits
// are the length of a JSON text (a command to it, an event from it), else of an IP packet. It ends with its standard input.
//
// gVisor is set up as tailscaled sets it up (SACK, Reno, no RACK); -tuned gives it CUBIC and RACK.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
)

const jsonFrame = 1 << 31

// link is where a host's packets come from and go to.
type link struct {
	mu  sync.Mutex
	out *bufio.Writer
}

func (l *link) frame(header uint32, bytes []byte) {
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], header)
	l.out.Write(head[:])
	l.out.Write(bytes)
}

// packet sends one packet; flush follows when no more wait.
func (l *link) packet(bytes []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frame(uint32(len(bytes)), bytes)
}

func (l *link) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out.Flush() != nil {
		os.Exit(0) // whoever ran us is gone
	}
}

func (l *link) tell(event any) {
	text, err := json.Marshal(event)
	if err != nil {
		fail(err)
	}
	l.mu.Lock()
	l.frame(jsonFrame|uint32(len(text)), text)
	l.mu.Unlock()
	l.flush()
}

func main() {
	tuned := flag.Bool("tuned", false, "gVisor with CUBIC and RACK")
	congestion := flag.String("congestion", "cubic", "the kernel's congestion control")
	flag.Parse()
	args := flag.Args()
	if len(args) < 3 {
		fail(fmt.Errorf("usage: tcp-peer [-tuned] [-congestion NAME] gvisor|kernel MTU ADDRESS..."))
	}
	mtu, err := strconv.Atoi(args[1])
	if err != nil {
		fail(err)
	}
	l := &link{out: bufio.NewWriterSize(os.Stdout, 1<<18)}
	var h host
	switch args[0] {
	case "gvisor":
		h, err = newGvisor(l, mtu, args[2:], *tuned)
	case "kernel":
		h, err = newKernel(l, mtu, args[2:], *congestion)
	default:
		err = fmt.Errorf("no such host: %s", args[0])
	}
	if err != nil {
		fail(err)
	}
	l.tell(event{Event: "ready"})
	if err := serve(l, h, bufio.NewReaderSize(os.Stdin, 1<<18)); err != nil && err != io.EOF {
		fail(err)
	}
}

func serve(l *link, h host, in *bufio.Reader) error {
	buffer := make([]byte, 1<<20)
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		header := binary.BigEndian.Uint32(head[:])
		length := header &^ jsonFrame
		if length > uint32(len(buffer)) {
			return fmt.Errorf("a frame of %d bytes", length)
		}
		if _, err := io.ReadFull(in, buffer[:length]); err != nil {
			return err
		}
		if header&jsonFrame == 0 {
			h.inject(buffer[:length])
			continue
		}
		var c command
		if err := json.Unmarshal(buffer[:length], &c); err != nil {
			return err
		}
		run(l, h, c)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "tcp-peer:", err)
	os.Exit(1)
}
