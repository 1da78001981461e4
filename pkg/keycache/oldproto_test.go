package keycache_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// fault names a fault of the first version that the model's world has again. The model must
// find each (TestModelFindsFirstVersionFaults).
var fault = flag.String("fault", "", "a fault of the first version: "+strings.Join(faults, ", "))

var faults = []string{ttlMode, headAcknowledges, arrivalOrder, goodbyeForgets}

const (
	// ttlMode: a 404 of the change log puts a sidecar into time-to-live mode.
	ttlMode = "time-to-live-mode"
	// headAcknowledges: a poll with after -1 acknowledges the head of the moment when it arrives.
	headAcknowledges = "head-acknowledges"
	// arrivalOrder: polls are taken in the order in which they arrive, from every process with
	// the name.
	arrivalOrder = "arrival-order"
	// goodbyeForgets: a goodbye forgets the name, so that a poll which arrives later is taken.
	goodbyeForgets = "goodbye-forgets"
)

// pollWire is the body of a poll.
type pollWire struct {
	Sidecar    string `json:"sidecar"`
	Poll       int64  `json:"poll"`
	Epoch      string `json:"epoch,omitempty"`
	After      int64  `json:"after"`
	WaitMS     int64  `json:"wait_ms,omitempty"`
	Leave      bool   `json:"leave,omitempty"`
	MaxStaleMS int64  `json:"max_stale_ms,omitempty"`
}

// firstVersion stands before the key API and has it take polls as the first version did.
type firstVersion struct {
	mu       sync.Mutex
	arrivals int64
	left     map[string]int // how often each name has left
}

// translate returns the poll as the first version takes it, in the key API's protocol.
func (v *firstVersion) translate(p pollWire) pollWire {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.arrivals++
	p.Poll = v.arrivals
	life := v.left[p.Sidecar]
	if p.Leave && *fault == goodbyeForgets {
		v.left[p.Sidecar]++
	}
	if life > 0 {
		p.Sidecar = fmt.Sprint(p.Sidecar, aliasMark, life)
	}
	return p
}

// aliasMark follows the name in the names that a name has after it has left.
const aliasMark = "~"

// poll is what the key API makes of a poll under the fault.
func (k *keyd) poll(client context.Context, path string, body []byte) reply {
	var p pollWire
	if err := json.Unmarshal(body, &p); err != nil {
		return reply{status: http.StatusBadRequest}
	}
	arrived, name := k.now(), p.Sidecar
	if *fault != "" && *fault != ttlMode {
		p = k.firstVersion.translate(p)
	}
	answer := k.sidecar(client, path, marshal(p))
	if *fault == headAcknowledges && p.After == -1 && answer.status == http.StatusGone {
		var head struct {
			Epoch    string
			Revision int64
		}
		if json.Unmarshal(answer.body, &head) == nil {
			p.Epoch, p.After, p.WaitMS = head.Epoch, head.Revision, 0
			k.sidecar(client, path, marshal(k.firstVersion.translate(p)))
		}
	}
	switch {
	case answer.status != http.StatusOK:
	case p.Leave:
		k.hasLeft(name)
	default:
		k.countsUntil(name, arrived, time.Duration(p.MaxStaleMS)*time.Millisecond)
	}
	return answer
}

func marshal(p pollWire) []byte {
	body, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return body
}
