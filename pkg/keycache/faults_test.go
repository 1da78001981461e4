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

// fault names a known fault that the world has. The model must detect it
// (TestModelFindsKnownFaults).
var fault = flag.String("fault", "", "a known fault: "+strings.Join(faults, ", "))

var faults = []string{ttlMode, headAcknowledges, arrivalOrder, deregistrationForgets}

const (
	// ttlMode: a 404 of the change log puts a sidecar into time-to-live mode.
	ttlMode = "time-to-live-mode"
	// headAcknowledges: a poll with after -1 acknowledges the head of the moment when it arrives.
	headAcknowledges = "head-acknowledges"
	// arrivalOrder: polls are accepted in the order of their arrival, from every process with the name.
	arrivalOrder = "arrival-order"
	// deregistrationForgets: a deregistration forgets the name, so a later poll is accepted.
	deregistrationForgets = "deregistration-forgets"
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

// oldProtocol translates polls so that the key API accepts them as an old version did.
type oldProtocol struct {
	mu              sync.Mutex
	arrivals        int64
	deregistrations map[string]int // deregistrations of each name
}

// translate returns the poll as the old version accepted it, in the current protocol.
func (v *oldProtocol) translate(p pollWire) pollWire {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.arrivals++
	p.Poll = v.arrivals
	alias := v.deregistrations[p.Sidecar]
	if p.Leave && *fault == deregistrationForgets {
		v.deregistrations[p.Sidecar]++
	}
	if alias > 0 {
		p.Sidecar = fmt.Sprint(p.Sidecar, aliasMark, alias)
	}
	return p
}

// aliasMark precedes the number in the aliases of a name that has deregistered.
const aliasMark = "~"

// poll handles a poll under the fault.
func (k *keyd) poll(client context.Context, path string, body []byte) reply {
	var p pollWire
	if err := json.Unmarshal(body, &p); err != nil {
		return reply{status: http.StatusBadRequest}
	}
	arrived, name := k.now(), p.Sidecar
	if *fault != "" && *fault != ttlMode {
		p = k.oldProtocol.translate(p)
	}
	answer := k.sidecar(client, path, marshal(p))
	if *fault == headAcknowledges && p.After == -1 && answer.status == http.StatusGone {
		var head struct {
			Epoch    string
			Revision int64
		}
		if json.Unmarshal(answer.body, &head) == nil {
			p.Epoch, p.After, p.WaitMS = head.Epoch, head.Revision, 0
			k.sidecar(client, path, marshal(k.oldProtocol.translate(p)))
		}
	}
	switch {
	case answer.status != http.StatusOK:
	case p.Leave:
		k.markDeregistered(name)
	default:
		k.recordLease(name, arrived, time.Duration(p.MaxStaleMS)*time.Millisecond)
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
