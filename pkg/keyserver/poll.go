package keyserver

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// pollBody is sidecarapi.ChangesRequest with `after` and `poll` distinguished from their absence.
type pollBody struct {
	Sidecar    *string `json:"sidecar"`
	Poll       *int64  `json:"poll"`
	Epoch      string  `json:"epoch"`
	After      *int64  `json:"after"`
	WaitMS     int64   `json:"wait_ms"`
	Leave      bool    `json:"leave"`
	MaxStaleMS int64   `json:"max_stale_ms"`
}

// headOnly is the `after` of a sidecar that starts, or starts over: it requests the head
// and acknowledges nothing.
const headOnly = -1

func (b *pollBody) check(longestMaxStale time.Duration) error {
	if err := checkText("sidecar", b.Sidecar, sidecarapi.MaxSidecar); err != nil {
		return err
	}
	switch {
	case b.Poll == nil:
		return badRequest("poll", "is required")
	case *b.Poll < 1:
		return badRequest("poll", "must be a whole number, at least 1")
	case b.After == nil:
		return badRequest("after", "is required")
	case b.Leave:
		return nil // for any epoch and after
	case *b.After < headOnly:
		return badRequest("after", "must be a revision, or -1")
	case b.WaitMS < 0 || b.WaitMS > sidecarapi.MaxWait.Milliseconds():
		return badRequest("wait_ms", "must be a whole number from 0 to %d", sidecarapi.MaxWait.Milliseconds())
	case b.MaxStaleMS < 0 || b.MaxStaleMS > longestMaxStale.Milliseconds():
		return badRequest("max_stale_ms", "must be a whole number from 0 to %d (longest_max_stale)", longestMaxStale.Milliseconds())
	}
	return nil
}

// poll is what the store records of the request.
func (b *pollBody) poll(settings *Settings) keystore.Poll {
	p := keystore.Poll{
		Sidecar:  *b.Sidecar,
		Number:   *b.Poll,
		Epoch:    b.Epoch,
		Revision: *b.After,
		Limit:    sidecarapi.MaxChanges,
		Lease:    settings.Lease,
		MaxStale: time.Duration(b.MaxStaleMS) * time.Millisecond,
		Leave:    b.Leave,
	}
	if b.Leave { // a poll of that name may be delayed that is not on record yet
		p.MaxStale = settings.LongestMaxStale
	}
	return p
}

// changes answers one long poll: cursor, acknowledgement, heartbeat and lease.
//
// The poll is recorded before the log is read for it, and what is read is never older
// than the record. A change that was called effective without this sidecar (its last
// time was over) was then committed before the log is read, and so is in the answer;
// one that is committed later waits for this sidecar. The other way round a change
// could slip between.
func (s *Server) changes(ctx context.Context, c *call) (answer, error) {
	arrived := time.Now()
	settings := s.settings.Load()
	var body pollBody
	if err := decode(c.body, &body); err != nil {
		return answer{}, err
	}
	if err := body.check(settings.LongestMaxStale); err != nil {
		return answer{}, err
	}
	poll := body.poll(settings)
	head, lease, err := s.store.RecordPoll(ctx, poll)
	switch {
	case err != nil:
		return s.goneOr(poll, head, err)
	case poll.Leave:
		return ok(pollAnswer(head, nil, 0))
	}
	head, list, err := s.await(ctx, c, poll, head, arrived.Add(time.Duration(body.WaitMS)*time.Millisecond))
	if err != nil {
		return s.goneOr(poll, head, err)
	}
	return ok(pollAnswer(head, list, lease))
}

// await looks until there are changes, the time is up, or the server drains. Recorded is
// the head when the poll was recorded.
func (s *Server) await(ctx context.Context, c *call, poll keystore.Poll, recorded keystore.Head, until time.Time) (keystore.Head, []keystore.Change, error) {
	ctx = context.WithoutCancel(ctx) // this may wait longer than a store may take
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for last := !time.Now().Before(until); ; {
		moved := s.tail.next()
		head, list, err := s.look(ctx, poll, recorded)
		if err != nil || len(list) > 0 || last {
			return head, list, err
		}
		select {
		case <-moved:
		case <-timer.C:
			last = true
		case <-s.draining:
			last = true
		case <-c.gone():
			return head, nil, context.Canceled
		}
	}
}

// look takes the changes from memory where it can: when something changes, thousands of
// sidecars ask for the same ones.
func (s *Server) look(ctx context.Context, poll keystore.Poll, recorded keystore.Head) (keystore.Head, []keystore.Change, error) {
	if head, list, ok := s.tail.after(poll.Revision, poll.Limit, recorded); ok {
		return head, list, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Changes(ctx, poll.Epoch, poll.Revision, poll.Limit)
}

// left tells how many changes the list, which is of that head, leaves out.
func left(head keystore.Head, list []keystore.Change) int64 {
	if len(list) == 0 {
		return 0
	}
	return head.Revision - list[len(list)-1].Revision
}

func pollAnswer(head keystore.Head, list []keystore.Change, lease time.Duration) sidecarapi.ChangesResponse {
	out := sidecarapi.ChangesResponse{
		Epoch:    head.Epoch,
		Revision: head.Revision - left(head, list),
		Changes:  make([]sidecarapi.Change, len(list)),
		LeaseMS:  lease.Milliseconds(),
	}
	for i, change := range list {
		out.Changes[i] = sidecarapi.Change{Revision: change.Revision, Account: change.Account}
		if change.Account == "" {
			out.Changes[i].Credential = change.Digest.Hex()
		}
	}
	return out
}

// goneOr answers a poll that the store has not taken: with the head, or with the error if
// it is another.
func (s *Server) goneOr(poll keystore.Poll, head keystore.Head, err error) (answer, error) {
	if !errors.Is(err, keystore.ErrGone) {
		return answer{}, err
	}
	if poll.Epoch == head.Epoch && poll.Revision > head.Revision {
		s.metrics.beyondHead.Inc()
		s.beyondHead.Do(func() {
			s.log.Error("a sidecar has seen changes that the store does not have: an older copy was restored without -new-epoch, and revocations may be lost",
				zap.String("sidecar", poll.Sidecar), zap.Int64("after", poll.Revision), zap.Int64("head", head.Revision))
		})
	}
	return answer{
		status: http.StatusGone,
		body:   sidecarapi.GoneResponse{Epoch: head.Epoch, Revision: head.Revision},
	}, nil
}
