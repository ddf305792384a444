package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// valueOf computes the status of a family f from its grant g and its user u. It is
// valid only while the grant is at the revision whose rights the key prints, so that
// a grant which was changed while it was suspended comes back as "ask".
const valueOf = `CASE WHEN f.status = 'invalid' OR g.status = 'revoked' THEN 1
	WHEN g.status = 'suspended' OR u.status <> 'active' THEN 2
	WHEN f.status = 'ask' OR f.rev <> g.rev THEN 3 ELSE 0 END`

// tell is an event of the feed: its row, and the status of every family that it is
// about, also where that stays what it was, because what may be known of the key
// beside its status has changed. Families that were dead before are left out. which
// is a condition on f, g and u with arguments from $5 on.
func tell(e oauth.Event, m mark, which string, args ...any) []statement {
	return append(note(e, true, m), do(`INSERT INTO status_changes (seq, status_index, api, value, at)
		SELECT h.seq, f.status_index, f.api, `+valueOf+`, CAST($1 AS BIGINT)
		FROM heads h, families f JOIN grants g ON g.id = f.grant_id JOIN users u ON u.id = g.user_id
		WHERE h.name = 'feed' AND (f.status <> 'invalid' OR f.op = $2) AND `+m.where(3)+" AND "+which,
		append(m.args(micros(e.At), e.ID), args...)...))
}

// rule is the change of a rule by an event. Its place in the feed is known only when
// the feed has moved, last of all, so it is made before and told after.
type rule struct {
	kind    oauth.RuleKind
	subject string
	value   oauth.StatusValue // Valid lifts it
	fold    bool              // the bits of what it covers are to be written
}

// make puts the rule, if the condition when holds, whose arguments are $6 and on.
func (r rule) make(e oauth.Event, when string, args ...any) statement {
	var fold any
	if r.fold {
		fold = ""
	}
	return do(`INSERT INTO cutoffs (kind, subject, before, value, fold, op)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), 0, CAST($3 AS BIGINT), CAST($4 AS TEXT), CAST($5 AS TEXT) WHERE `+when+`
		ON CONFLICT (kind, subject) DO UPDATE SET value = excluded.value, fold = excluded.fold, op = excluded.op`,
		append([]any{string(r.kind), r.subject, int64(r.value), fold, e.ID}, args...)...)
}

// tell gives the rule that this event made its place. One that is lifted goes.
func (r rule) tell(e oauth.Event) []statement {
	steps := []statement{
		do("UPDATE cutoffs SET before = (SELECT seq FROM heads WHERE name = 'feed') WHERE kind = $1 AND subject = $2 AND op = $3", string(r.kind), r.subject, e.ID),
		do(`INSERT INTO rule_changes (seq, kind, subject, before, value, at)
			SELECT before, kind, subject, before, value, CAST($4 AS BIGINT) FROM cutoffs WHERE kind = $1 AND subject = $2 AND op = $3`, string(r.kind), r.subject, e.ID, micros(e.At)),
	}
	if r.value == oauth.StatusValid {
		steps = append(steps, do("DELETE FROM cutoffs WHERE kind = $1 AND subject = $2 AND op = $3", string(r.kind), r.subject, e.ID))
	}
	return steps
}

// uncut asks that what is being issued does not fall under a rule about everything,
// or about the key that signed it. Those about a client and a store need no asking:
// the guard asks for the client, and what a key prints of a store is compared by iseq.
// Arguments $n+1 (iseq) and $n+2 (kid).
func uncut(n int) string {
	return fmt.Sprintf(" AND NOT EXISTS (SELECT 1 FROM cutoffs WHERE kind = 'all' AND subject = '' AND before > $%d)"+
		" AND NOT EXISTS (SELECT 1 FROM cutoffs WHERE kind = 'key' AND subject = $%d)", n+1, n+2)
}

// CutOff implements oauth.StatusStorage.
func (s *Store) CutOff(ctx context.Context, kind oauth.RuleKind, subject string, e oauth.Event) (bool, error) {
	n := int64(1)
	if kind == oauth.RuleKey {
		r := rule{kind: oauth.RuleKey, subject: subject, value: oauth.StatusInvalid}
		m := mark{"signing_keys", "kid", "op", subject, e.ID}
		guard := counted(&n, "UPDATE signing_keys SET status = 'cut', op = $1 WHERE kid = $2 AND status <> 'cut'", e.ID, subject)
		return s.won(ctx, &n, one(guard), one(r.make(e, m.where(6), m.args()...)), note(e, true, m), r.tell(e))
	}
	r := rule{kind: oauth.RuleAll, value: oauth.StatusInvalid, fold: true}
	return s.won(ctx, &n, one(r.make(e, "TRUE")), note(e, true, mark{"cutoffs", "op", "op", e.ID, e.ID}), r.tell(e))
}

// needless says of a rule, all of whose bits are written, that it can be lifted: whoever
// begins to follow is told every rule, so there must not be one for each app there ever
// was. Every key that prints the store is asked about, and new ones have seen how it is.
// A deleted app's grants have ended, and whoever redeemed a code of one beside that held
// its lock. A guest's redemption makes its grant, which is not seen by who goes through
// them if it is committed meanwhile: its key falls under the rule, which goes when no grant
// is left, long after the last redemption.
const needless = `fold IS NULL AND (kind = 'store' OR kind = 'client' AND value = 1
	AND (EXISTS (SELECT 1 FROM clients c WHERE c.id = cutoffs.subject AND c.profile <> 'direct')
		OR before <= (SELECT seq FROM heads WHERE name = 'kept') AND NOT EXISTS (SELECT 1 FROM grants g WHERE g.client_id = cutoffs.subject)))`

// Foldings implements oauth.StatusStorage.
func (s *Store) Foldings(ctx context.Context) ([]oauth.Folding, error) {
	var list []oauth.Folding
	err := s.engine.query(ctx, `SELECT kind, subject, before, COALESCE(fold, ''), fold IS NULL FROM cutoffs
		WHERE fold IS NOT NULL OR `+needless+" ORDER BY kind, subject", nil, func(scan func(...any) error) error {
		var f oauth.Folding
		if err := scan((*string)(&f.Kind), &f.Subject, &f.Before, &f.After, &f.Done); err != nil {
			return unavailable(err)
		}
		list = append(list, f)
		return nil
	})
	return list, err
}

// folding is how the bits under a rule are written, batch after batch.
type folding struct {
	batch string // the ids of the next ones, behind $2, at most $3; $1 is the rule's subject
	lock  string // the grants of these
	end   func(oauth.Folding, oauth.Event) []statement
	which string // for [tell]; $5 is the subject, $6 what the batch is behind
}

// reaching selects the grants that reach a store, of those that which says of their id,
// %[1]s: those that name it, and those on all stores of its members, whose keys print
// none. Each half is asked for these alone: a batch costs the same where many are left.
func reaching(store, which string) string {
	half := func(text, id string) string {
		return "SELECT h.id FROM (" + text + " = " + store + " AND " + fmt.Sprintf(which, id) + ") h"
	}
	return half("SELECT x.grant_id AS id FROM grant_stores x WHERE x.store_id", "x.grant_id") + " UNION " +
		half("SELECT o.id FROM memberships m JOIN grants o ON o.user_id = m.user_id WHERE o.all_stores AND m.store_id", "o.id")
}

// nextReaching selects the next batch of them.
var nextReaching = reaching("$1", "%[1]s > $2 ORDER BY %[1]s LIMIT $3") + " ORDER BY id LIMIT $3"

// folded is how far the batch of the event $2 goes, as the guard left it.
const folded = "(SELECT fold FROM cutoffs WHERE op = $2)"

var folds = map[oauth.RuleKind]folding{
	oauth.RuleClient: {
		batch: "SELECT id FROM grants WHERE client_id = $1 AND id > $2 ORDER BY id LIMIT $3",
		lock:  "SELECT id FROM grants WHERE client_id = $1 AND id > $2 ORDER BY id LIMIT $3",
		end: func(f oauth.Folding, e oauth.Event) []statement {
			const these = "client_id = $1 AND id > $3 AND id <= " + folded
			args := []any{f.Subject, e.ID, f.After, micros(e.At)}
			return []statement{
				do("UPDATE grants SET status = 'revoked', is_default = FALSE, due = $4, op = $2 WHERE "+these+" AND status <> 'revoked'", args...),
				do("UPDATE families SET status = 'invalid', due = $4, op = $2 WHERE status <> 'invalid' AND grant_id IN (SELECT id FROM grants WHERE "+these+")", args...),
			}
		},
		which: "f.op = $2 AND g.client_id = $5 AND g.id > $6 AND g.id <= " + folded,
	},
	oauth.RuleStore: {
		batch: nextReaching,
		lock:  "SELECT id FROM grants WHERE id IN (" + nextReaching + ") ORDER BY id",
		end: func(f oauth.Folding, e oauth.Event) []statement {
			return []statement{do("UPDATE grants SET rev = rev + 1, op = $2 WHERE status <> 'revoked' AND id IN ("+reaching("$1", "%[1]s > $3 AND %[1]s <= "+folded)+")", f.Subject, e.ID, f.After)}
		},
		which: "g.id IN (" + reaching("$5", "%[1]s > $6 AND %[1]s <= "+folded) + ")",
	},
	oauth.RuleAll: {
		batch: "SELECT id FROM families WHERE id > $2 AND $1 = '' ORDER BY id LIMIT $3",
		lock:  "SELECT id FROM grants WHERE id IN (SELECT grant_id FROM families WHERE id IN (SELECT id FROM families WHERE id > $2 AND $1 = '' ORDER BY id LIMIT $3)) ORDER BY id",
		end: func(f oauth.Folding, e oauth.Event) []statement {
			return []statement{do("UPDATE families SET status = 'invalid', due = $1, op = $2 WHERE id > $3 AND id <= "+folded+" AND status <> 'invalid' AND iseq < $4",
				micros(e.At), e.ID, f.After, f.Before)}
		},
		which: "f.op = $2 AND $5 = '' AND f.id > $6 AND f.id <= " + folded,
	},
}

// FoldRule implements oauth.StatusStorage. The guard moves the mark in the rule; what
// lies between the old and the new one is this event's, and nobody else's.
func (s *Store) FoldRule(ctx context.Context, f oauth.Folding, limit int, e oauth.Event) (bool, error) {
	var n int64
	m := mark{"cutoffs", "op", "op", e.ID, e.ID}
	if f.Done {
		r := rule{kind: f.Kind, subject: f.Subject, value: oauth.StatusValid}
		guard := counted(&n, "UPDATE cutoffs SET op = $1, value = 0 WHERE kind = $2 AND subject = $3 AND before = $4 AND "+needless, e.ID, string(f.Kind), f.Subject, f.Before)
		return s.won(ctx, &n, one(guard), note(e, true, m), r.tell(e))
	}
	how := folds[f.Kind]
	guard := counted(&n, "UPDATE cutoffs SET op = $4, fold = (SELECT MAX(b.id) FROM ("+how.batch+`) b)
		WHERE subject = $1 AND fold = $2 AND kind = $5 AND before = $6`, f.Subject, f.After, limit, e.ID, string(f.Kind), f.Before)
	return s.won(ctx, &n, s.engine.lock(how.lock, f.Subject, f.After, limit), one(guard), how.end(f, e), tell(e, m, how.which, f.Subject, f.After))
}

const (
	presentColumns = "f.seq, f.epoch, o.seq, k.seq, b.seq, COALESCE((SELECT e.id FROM events e WHERE e.seq = f.seq), '')"
	presentHeads   = ` FROM heads f JOIN heads o ON o.name = 'folded' JOIN heads k ON k.name = 'kept' JOIN heads b ON b.name = 'beat' WHERE f.name = 'feed'`
)

// Present implements oauth.StatusStorage.
func (s *Store) Present(ctx context.Context) (oauth.Present, error) {
	p := oauth.Present{Beats: s.engine.deposable()}
	err := s.row(forAPIs.of(ctx), "SELECT "+presentColumns+presentHeads, nil, &p.Seq, &p.Epoch, &p.Folded, &p.Kept, &p.Beat, &p.Last)
	return p, err
}

// What a row of newsText is about.
const (
	newsPresent = iota
	newsEvent
	newsChange
	newsRule
)

// newsText asks for all of [oauth.News]: whoever follows waits for one answer, not for
// one after the other. Arguments: what happened after $1, and up to $2.
const newsText = "SELECT 0 AS part, " + presentColumns + `, COALESCE((SELECT e.id FROM events e WHERE e.seq = $1), ''), ''` + presentHeads + `
	UNION ALL SELECT 1, e.seq, 0, 0, 0, 0, e.id, e.kind, e.client_id FROM events e WHERE e.seq > $1 AND e.seq <= $2
	UNION ALL SELECT 2, c.seq, c.status_index, c.value, 0, 0, c.api, '', '' FROM status_changes c WHERE c.seq > $1 AND c.seq <= $2
	UNION ALL SELECT 3, r.seq, r.before, r.value, 0, 0, r.kind, r.subject, '' FROM rule_changes r WHERE r.seq > $1 AND r.seq <= $2
	ORDER BY 1, 2, 3`

// News implements oauth.StatusStorage.
func (s *Store) News(ctx context.Context, after int64, limit int) (oauth.News, error) {
	n := oauth.News{Present: oauth.Present{Beats: s.engine.deposable()}}
	err := s.engine.query(forFeed.of(ctx), newsText, []any{after, after + int64(limit)}, func(scan func(...any) error) error {
		var part, seq int64
		var numbers [4]int64
		var texts [3]string
		if err := scan(&part, &seq, &numbers[0], &numbers[1], &numbers[2], &numbers[3], &texts[0], &texts[1], &texts[2]); err != nil {
			return unavailable(err)
		}
		switch part {
		case newsPresent:
			n.Seq, n.Epoch, n.Folded, n.Kept, n.Beat, n.Last, n.Seen = seq, numbers[0], numbers[1], numbers[2], numbers[3], texts[0], texts[1]
		case newsEvent:
			n.Events = append(n.Events, oauth.FeedEvent{Seq: seq, ID: texts[0], Kind: oauth.Kind(texts[1]), ClientID: texts[2]})
		case newsChange:
			n.Changes = append(n.Changes, oauth.StatusChange{Seq: seq, Index: numbers[0], Value: oauth.StatusValue(numbers[1]), API: texts[0]})
		case newsRule:
			n.Rules = append(n.Rules, oauth.Rule{Seq: seq, Before: numbers[0], Value: oauth.StatusValue(numbers[1]), Kind: oauth.RuleKind(texts[0]), Subject: texts[1]})
		}
		return nil
	})
	if err == nil && n.Epoch == 0 {
		err = oauth.ErrNotFound
	}
	return n, err
}

// Beat implements oauth.StatusStorage.
func (s *Store) Beat(ctx context.Context, seen int64) error {
	return s.engine.write(forFeed.of(ctx), one(do("UPDATE heads SET seq = seq + 1 WHERE name = 'beat' AND seq = $1", seen)))
}

// StatusChanges implements oauth.StatusStorage.
func (s *Store) StatusChanges(ctx context.Context, after, upto int64) ([]oauth.StatusChange, error) {
	return s.changes(ctx, "seq > $1 AND seq <= $2"+inOrder, after, upto)
}

// ChangesFor implements oauth.StatusStorage.
func (s *Store) ChangesFor(ctx context.Context, api string, after, upto int64, limit int) ([]oauth.StatusChange, error) {
	return s.changes(forAPIs.of(ctx), "seq > $1 AND seq <= $2 AND api = $3"+inOrder+" LIMIT $4", after, upto, api, limit)
}

const inOrder = " ORDER BY seq, status_index"

func (s *Store) changes(ctx context.Context, where string, args ...any) ([]oauth.StatusChange, error) {
	var list []oauth.StatusChange
	err := s.engine.query(ctx, "SELECT seq, status_index, api, value FROM status_changes WHERE "+where, args, func(scan func(...any) error) error {
		var c oauth.StatusChange
		if err := scan(&c.Seq, &c.Index, &c.API, (*int64)(&c.Value)); err != nil {
			return unavailable(err)
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

// RuleChanges implements oauth.StatusStorage.
func (s *Store) RuleChanges(ctx context.Context, after, upto int64) ([]oauth.Rule, error) {
	return s.rules(forAPIs.of(ctx), "SELECT seq, kind, subject, before, value FROM rule_changes WHERE seq > $1 AND seq <= $2 ORDER BY seq", after, upto)
}

// Rules implements oauth.StatusStorage.
func (s *Store) Rules(ctx context.Context) ([]oauth.Rule, error) {
	return s.rules(forFeed.of(ctx), "SELECT before, kind, subject, before, value FROM cutoffs ORDER BY kind, subject")
}

func (s *Store) rules(ctx context.Context, text string, args ...any) ([]oauth.Rule, error) {
	var list []oauth.Rule
	err := s.engine.query(ctx, text, args, func(scan func(...any) error) error {
		var r oauth.Rule
		if err := scan(&r.Seq, (*string)(&r.Kind), &r.Subject, &r.Before, (*int64)(&r.Value)); err != nil {
			return unavailable(err)
		}
		list = append(list, r)
		return nil
	})
	return list, err
}

// StatusList implements oauth.StatusStorage. Chunks first: what is folded while this
// reads is then in a chunk or still among the changes, or in both.
func (s *Store) StatusList(ctx context.Context, number, folded int64) (*oauth.StoredList, error) {
	l := oauth.StoredList{Number: number}
	if err := s.row(ctx, "SELECT api, kind FROM status_lists WHERE number = $1 AND kind NOT IN ('going', 'gone')", []any{number}, &l.API, &l.Kind); err != nil {
		return nil, err
	}
	err := s.engine.query(ctx, "SELECT chunk, bits, seq FROM status_chunks WHERE list = $1 ORDER BY chunk", []any{number}, func(scan func(...any) error) error {
		c := oauth.StatusChunk{List: number}
		if err := scan(&c.Chunk, &c.Bits, &c.Seq); err != nil {
			return unavailable(err)
		}
		l.Chunks = append(l.Chunks, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.Changes, err = s.changes(ctx, "seq > $1 AND status_index >= $2 AND status_index < $3"+inOrder, folded, number*listSize, (number+1)*listSize)
	return &l, err
}

// GoneLists implements oauth.StatusStorage.
func (s *Store) GoneLists(ctx context.Context) ([]int64, error) {
	var list []int64
	err := s.engine.query(ctx, "SELECT number FROM status_lists WHERE kind IN ('going', 'gone')", nil, func(scan func(...any) error) error {
		var number int64
		if err := scan(&number); err != nil {
			return unavailable(err)
		}
		list = append(list, number)
		return nil
	})
	return list, err
}

// FoldChunks implements oauth.StatusStorage. Of two that fold the same changes the
// second finds the mark moved and writes nothing.
func (s *Store) FoldChunks(ctx context.Context, from, upto int64, chunks []oauth.StatusChunk) (bool, error) {
	var n int64
	steps := []statement{counted(&n, "UPDATE heads SET seq = $1 WHERE name = 'folded' AND seq = $2", upto, from)}
	for _, c := range chunks {
		// The condition on seq, and not the mark alone, because two may fold to the same
		// place: the one that comes second would find the mark where it expects it.
		steps = append(steps, do(`INSERT INTO status_chunks (list, chunk, bits, seq)
			SELECT CAST($1 AS BIGINT), CAST($2 AS BIGINT), $3, CAST($4 AS BIGINT) WHERE EXISTS (SELECT 1 FROM heads WHERE name = 'folded' AND seq = $4)
			ON CONFLICT (list, chunk) DO UPDATE SET bits = excluded.bits, seq = excluded.seq WHERE status_chunks.seq < excluded.seq`, c.List, c.Chunk, c.Bits, upto))
	}
	return s.won(ctx, &n, steps)
}

// Chunk implements oauth.StatusStorage.
func (s *Store) Chunk(ctx context.Context, list, chunk int64) ([]byte, error) {
	var bits []byte
	err := s.row(ctx, "SELECT bits FROM status_chunks WHERE list = $1 AND chunk = $2", []any{list, chunk}, &bits)
	return bits, err
}

// Moved implements oauth.StatusStorage.
func (s *Store) Moved() <-chan struct{} { return s.moved }

// PutFollowers implements oauth.StatusStorage. A follower that asked two nodes may be
// noted by both, in any order. One of epoch 0 stays where it is. One that left is kept
// until the sweep, seen at the negative of when that was: what goes on where it was may
// be noted late, or be a question that it gave up when it left. Only a beginning brings
// it back, and no time is compared for that, since the clocks of nodes differ.
func (s *Store) PutFollowers(ctx context.Context, list []oauth.Follower) (left []oauth.Follower, err error) {
	ctx = forAPIs.of(ctx)
	var ev []statement
	taken := make([]int64, len(list))
	for i, f := range list {
		ev = append(ev, counted(&taken[i], `INSERT INTO followers (api, instance, seq, epoch, seen, node, lag) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (api, instance) DO UPDATE SET seq = CASE WHEN excluded.epoch = 0 THEN followers.seq ELSE excluded.seq END,
				epoch = CASE WHEN excluded.epoch = 0 THEN followers.epoch ELSE excluded.epoch END, seen = excluded.seen, node = excluded.node, lag = excluded.lag
			WHERE (followers.seen >= 0 OR excluded.epoch = 0)
				AND (excluded.epoch = 0 OR followers.epoch < excluded.epoch OR followers.epoch = excluded.epoch AND followers.seq <= excluded.seq)`,
			f.API, f.Instance, f.Seq, f.Epoch, micros(f.Seen), f.Node, f.Lag.Microseconds()))
	}
	if err := s.engine.write(ctx, ev); err != nil {
		return nil, err
	}
	for i, f := range list {
		if taken[i] > 0 {
			continue
		}
		var seen int64 // it has left, or was noted further by another node
		if err := s.row(ctx, "SELECT seen FROM followers WHERE api = $1 AND instance = $2", []any{f.API, f.Instance}, &seen); err != nil && !errors.Is(err, oauth.ErrNotFound) {
			return nil, err
		}
		if seen < 0 {
			left = append(left, f)
		}
	}
	return left, nil
}

// RemoveFollower implements oauth.StatusStorage.
func (s *Store) RemoveFollower(ctx context.Context, api, instance string, at time.Time) error {
	return s.engine.write(forAPIs.of(ctx), one(do("UPDATE followers SET seen = -CAST($3 AS BIGINT) WHERE api = $1 AND instance = $2", api, instance, micros(at))))
}

// CountFollowers implements oauth.StatusStorage.
func (s *Store) CountFollowers(ctx context.Context, since time.Time) (oauth.Followed, error) {
	return s.follow.ask(ctx, func(ctx context.Context) (f oauth.Followed, err error) {
		err = s.row(forFeed.of(ctx), `SELECT COUNT(*), COALESCE(MIN(epoch), 0), COALESCE(MIN(CASE WHEN epoch = (SELECT MIN(epoch) FROM followers WHERE seen >= $1) THEN seq END), 0)
			FROM followers WHERE seen >= $1`, []any{micros(since)}, &f.All, &f.Epoch, &f.Seq)
		return f, err
	})
}

// Followers implements oauth.StatusStorage.
func (s *Store) Followers(ctx context.Context, since time.Time) ([]oauth.Follower, error) {
	var list []oauth.Follower
	err := s.engine.query(ctx, "SELECT api, instance, seq, epoch, seen, node, lag FROM followers WHERE seen >= $1 ORDER BY api, instance", []any{micros(since)}, func(scan func(...any) error) error {
		var f oauth.Follower
		var seen, lag int64
		if err := scan(&f.API, &f.Instance, &f.Seq, &f.Epoch, &seen, &f.Node, &lag); err != nil {
			return unavailable(err)
		}
		f.Seen, f.Lag = fromMicros(seen), time.Duration(lag)*time.Microsecond
		list = append(list, f)
		return nil
	})
	return list, err
}
