package keyserver

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// pollBody is a ChangesRequest in which an absent `after` is not 0.
type pollBody struct {
	sidecarapi.ChangesRequest
	After *int64 `json:"after"`
}

// headOnly is the `after` of a sidecar that starts, or starts over: it requests the head and acknowledges nothing.
const headOnly = -1

func (b *pollBody) check(longestMaxStale time.Duration) error {
	if err := checkText("sidecar", b.Sidecar, sidecarapi.MaxSidecar); err != nil {
		return err
	}
	switch {
	case b.Poll < 1:
		return httpapi.BadRequest("poll", "must be a whole number, at least 1")
	case b.After == nil:
		return httpapi.BadRequest("after", "is required")
	case b.WaitMS < 0 || b.WaitMS > sidecarapi.MaxWait.Milliseconds():
		return httpapi.BadRequest("wait_ms", "must be a whole number from 0 to %d", sidecarapi.MaxWait.Milliseconds())
	case b.Leave && b.MaxStaleMS >= 0:
		return nil // for any epoch, after and longest_max_stale
	case *b.After < headOnly && !b.Leave:
		return httpapi.BadRequest("after", "must be a revision, or -1")
	case b.MaxStaleMS < 0 || b.MaxStaleMS > longestMaxStale.Milliseconds():
		return httpapi.BadRequest("max_stale_ms", "must be a whole number from 0 to %d (longest_max_stale)", longestMaxStale.Milliseconds())
	}
	return nil
}

// poll is what the store records of the request.
func (b *pollBody) poll(settings *Settings) keystore.Poll {
	p := keystore.Poll{
		Sidecar:  b.Sidecar,
		Number:   b.Poll,
		Epoch:    b.Epoch,
		Revision: *b.After,
		Limit:    sidecarapi.MaxChanges,
		Lease:    settings.Lease,
		MaxStale: time.Duration(b.MaxStaleMS) * time.Millisecond,
		Leave:    b.Leave,
	}
	if b.Leave { // a delayed poll of this name may not be on record yet
		p.MaxStale = settings.LongestMaxStale
	}
	return p
}

// changes answers one long poll: cursor, acknowledgement, heartbeat and lease.
//
// The poll is recorded before the log is read for it, and the log that is read is never older than the record. A
// change that became effective without this sidecar, because its last lease and stale time were over, was
// committed before the log is read, and so it is in the response. A change that is committed later waits for this
// sidecar. In the other order a change could be missed by both.
func (s *Server) changes(ctx context.Context, c *call, body pollBody) (httpapi.Response, error) {
	arrived := time.Now()
	settings := s.settings.Load()
	if err := body.check(settings.LongestMaxStale); err != nil {
		return httpapi.Response{}, err
	}
	poll := body.poll(settings)
	head, lease, err := s.store.RecordPoll(ctx, poll)
	if err == nil {
		s.acks.recorded(poll)
	}
	var list []keystore.Change
	if err == nil && !poll.Leave {
		head, list, err = s.awaitChanges(ctx, c, poll, head, arrived.Add(time.Duration(body.WaitMS)*time.Millisecond))
	}
	switch {
	case errors.Is(err, keystore.ErrGone):
		s.noteBeyondHead(poll, head)
		return httpapi.Response{Status: http.StatusGone, Body: sidecarapi.GoneResponse{Epoch: head.Epoch, Revision: head.Revision}}, nil
	case err != nil:
		return httpapi.Response{}, err
	case poll.Leave:
		lease = 0
	}
	return s.changesResponse(poll.Revision, head, list, lease)
}

// shared is a response with changes. All sidecars that have acknowledged the same revision get the same one.
type shared struct {
	of   changesKey
	body httpapi.Encoded
}

// changesKey has all that a response depends on: the log of an epoch never changes.
type changesKey struct {
	epoch           string
	after, revision int64
	lease           time.Duration
}

// changesResponse encodes a response once for all sidecars that wait for the same changes.
func (s *Server) changesResponse(after int64, head keystore.Head, list []keystore.Change, lease time.Duration) (httpapi.Response, error) {
	if len(list) == 0 {
		return httpapi.OK(changesResponse(head, list, lease))
	}
	key := changesKey{head.Epoch, after, list[len(list)-1].Revision, lease}
	latest := s.latest.Load()
	if latest == nil || latest.of != key {
		body, err := httpapi.Encode(changesResponse(head, list, lease))
		if err != nil {
			return httpapi.Response{}, err
		}
		latest = &shared{key, body}
		s.latest.Store(latest)
	}
	return httpapi.OK(latest.body)
}

// awaitChanges reads the log until there are changes, the time is up, or the server drains. recorded is the head
// when the poll was recorded.
func (s *Server) awaitChanges(ctx context.Context, c *call, poll keystore.Poll, recorded keystore.Head, until time.Time) (keystore.Head, []keystore.Change, error) {
	ctx = context.WithoutCancel(ctx) // the wait may be longer than the timeout of the store
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	timer := time.After(time.Until(until))
	for last := !time.Now().Before(until); ; {
		moved := s.tail.next()
		head, list, err := s.readChanges(ctx, poll, recorded)
		if err != nil || len(list) > 0 || last {
			return head, list, err
		}
		select {
		case <-moved:
		case <-timer:
			last = true
		case <-s.draining:
			last = true
		case <-c.Request.Context().Done():
			return head, nil, context.Canceled
		}
	}
}

// readChanges reads the changes from memory if it can: thousands of sidecars request the same ones.
func (s *Server) readChanges(ctx context.Context, poll keystore.Poll, recorded keystore.Head) (keystore.Head, []keystore.Change, error) {
	if head, list, ok := s.tail.after(poll.Revision, poll.Limit, recorded); ok {
		return head, list, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Changes(ctx, poll.Epoch, poll.Revision, poll.Limit)
}

func changesResponse(head keystore.Head, list []keystore.Change, lease time.Duration) sidecarapi.ChangesResponse {
	out := sidecarapi.ChangesResponse{
		Epoch:    head.Epoch,
		Revision: head.Revision,
		Changes:  make([]sidecarapi.Change, len(list)),
		LeaseMS:  lease.Milliseconds(),
	}
	for i, change := range list {
		out.Changes[i] = sidecarapi.Change{Revision: change.Revision, Account: change.Account}
		if change.Account == "" {
			out.Changes[i].Credential = change.Digest.Hex()
		}
		out.Revision = change.Revision // the list may leave out the newest changes
	}
	return out
}

// noteBeyondHead counts a poll that acknowledges a revision beyond the head of its epoch.
func (s *Server) noteBeyondHead(poll keystore.Poll, head keystore.Head) {
	if poll.Epoch != head.Epoch || poll.Revision <= head.Revision {
		return
	}
	s.metrics.beyondHead.Inc()
	s.beyondHead.Do(func() {
		s.log.Error("a sidecar has seen changes that the store does not have: an older copy was restored without -new-epoch, and revocations may be lost",
			zap.String("sidecar", poll.Sidecar), zap.Int64("after", poll.Revision), zap.Int64("head", head.Revision))
	})
}
