// filter-peer says what the packet filter of tailscale.com/wgengine/filter makes of packets.
//
// It reads one JSON object a line and answers each with one line:
//
//	{"rules": [FilterRule...], "local": [prefix...], "caps": {address: [capability...]}, "shields": BOOL, "share": BOOL,
//	 "packets": [{"out": BOOL, "bytes": base64}...]}
//	{"verdicts": "ADNA..."}   one letter for each packet: A accept, D drop, S drop silently, N no verdict
//
// With "share" the filter goes on with the flows of the one before, as a node's does when its rules change.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"go4.org/netipx"
	"tailscale.com/net/packet"
	"tailscale.com/tailcfg"
	"tailscale.com/wgengine/filter"
)

type sent struct {
	Out   bool   `json:"out"`
	Bytes []byte `json:"bytes"`
}

type question struct {
	Rules   []tailcfg.FilterRule                    `json:"rules"`
	Local   []netip.Prefix                          `json:"local"`
	Caps    map[netip.Addr][]tailcfg.NodeCapability `json:"caps"`
	Shields bool                                    `json:"shields"`
	Share   bool                                    `json:"share"`
	Packets []sent                                  `json:"packets"`
}

type answer struct {
	Verdicts string `json:"verdicts"`
	// What the module says of rules that it cannot read; it uses the others.
	Problem string `json:"problem,omitempty"`
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<28)
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	encoder := json.NewEncoder(out)
	var before *filter.Filter
	for in.Scan() {
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			fail(err)
		}
		if !q.Share {
			before = nil
		}
		f, a := ask(q, before)
		before = f
		if err := encoder.Encode(a); err != nil {
			fail(err)
		}
	}
	if err := in.Err(); err != nil {
		fail(err)
	}
	if err := out.Flush(); err != nil {
		fail(err)
	}
}

func ask(q question, before *filter.Filter) (*filter.Filter, answer) {
	var a answer
	matches, err := filter.MatchesFromFilterRules(q.Rules)
	if err != nil {
		a.Problem = err.Error()
	}
	var local netipx.IPSetBuilder
	for _, prefix := range q.Local {
		local.AddPrefix(prefix)
	}
	localSet, err := local.IPSet()
	if err != nil {
		fail(err)
	}
	var none netipx.IPSetBuilder
	noSet, _ := none.IPSet()
	logf := func(string, ...any) {}
	hasCap := func(addr netip.Addr, c tailcfg.NodeCapability) bool { return slices.Contains(q.Caps[addr], c) }
	var f *filter.Filter
	if q.Shields {
		f = filter.NewShieldsUpFilter(localSet, noSet, before, logf)
	} else {
		f = filter.New(matches, hasCap, localSet, noSet, before, logf)
	}
	verdicts := make([]byte, 0, len(q.Packets))
	for _, each := range q.Packets {
		var parsed packet.Parsed
		parsed.Decode(each.Bytes)
		var response filter.Response
		if each.Out {
			response, _ = f.RunOut(&parsed, 0)
		} else {
			response = f.RunIn(&parsed, 0)
		}
		verdicts = append(verdicts, letter(response))
	}
	a.Verdicts = string(verdicts)
	return f, a
}

func letter(response filter.Response) byte {
	switch response {
	case filter.Accept:
		return 'A'
	case filter.Drop:
		return 'D'
	case filter.DropSilently:
		return 'S'
	}
	return 'N'
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "filter-peer:", err)
	os.Exit(1)
}
