// hujson-peer says what the Go module github.com/tailscale/hujson makes of texts.
//
// It reads one JSON object a line, {"text": base64, "patch": base64 or absent}, and answers each with one line:
// {"error": TEXT} when the text does not parse, else {"standard": BOOL, "packed", "standardized", "minimized", "formatted": base64} and,
// when there was a patch, {"patched": base64} or {"patchError": TEXT}.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/tailscale/hujson"
)

type question struct {
	Text  []byte  `json:"text"`
	Patch *[]byte `json:"patch"`
}

type answer struct {
	Error        string `json:"error,omitempty"`
	Standard     bool   `json:"standard"`
	Packed       []byte `json:"packed,omitempty"`
	Standardized []byte `json:"standardized,omitempty"`
	Minimized    []byte `json:"minimized,omitempty"`
	Formatted    []byte `json:"formatted,omitempty"`
	Patched      []byte `json:"patched,omitempty"`
	PatchError   string `json:"patchError,omitempty"`
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<28)
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	encoder := json.NewEncoder(out)
	for in.Scan() {
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			fail(err)
		}
		if err := encoder.Encode(ask(q)); err != nil {
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

func ask(q question) answer {
	value, err := hujson.Parse(q.Text)
	if err != nil {
		return answer{Error: err.Error()}
	}
	a := answer{Standard: value.IsStandard(), Packed: value.Pack()}
	// Each answer is made from a tree of its own over bytes of its own: changes are made in the bytes that were read, and a clone forgets a
	// trailing comma that nothing follows.
	again := func() hujson.Value {
		value, err := hujson.Parse(bytes.Clone(q.Text))
		if err != nil {
			fail(err)
		}
		return value
	}
	changed := func(change func(*hujson.Value)) []byte {
		value := again()
		change(&value)
		return value.Pack()
	}
	a.Standardized = changed((*hujson.Value).Standardize)
	a.Minimized = changed((*hujson.Value).Minimize)
	a.Formatted = changed((*hujson.Value).Format)
	if q.Patch != nil {
		patched := again()
		if err := patched.Patch(*q.Patch); err != nil {
			a.PatchError = err.Error()
		} else {
			a.Patched = patched.Pack()
		}
	}
	return a
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "hujson-peer:", err)
	os.Exit(1)
}
