package oauth

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// list is a status list as this node keeps it. What is all valid takes no room.
type list struct {
	number int64
	api    string
	chunks [listChunks]*chunk
	last   int64 // the newest change in it; under feed.mu

	signing sync.Mutex // held by the one that prints it
	printed string     // the list as it was signed last
	at      time.Time  // when
	seq     int64      // what it reflects
	lst     string     // compressed,
	lstSeq  int64      // with all changes up to this; both under signing
}

type chunk struct {
	bits [chunkBytes]byte
	seq  int64 // everything up to this is in it
}

// apply sets one value. What is in the chunk already may be of later.
func (l *list) apply(ch StatusChange) {
	place := ch.Index & (1<<IndexBits - 1)
	c := &l.chunks[place/ChunkValues]
	if *c == nil {
		if ch.Value == StatusValid {
			return
		}
		*c = &chunk{}
	}
	if ch.Seq <= (*c).seq {
		return
	}
	SetStatus((*c).bits[:], place%ChunkValues, ch.Value)
	l.last = max(l.last, ch.Seq)
}

// SetStatus writes two bits (Token Status List, 4.1: from the lowest ones up).
func SetStatus(bits []byte, place int64, v StatusValue) {
	shift := place % 4 * 2
	bits[place/4] = bits[place/4]&^(3<<shift) | byte(v)<<shift
}

// bitmap is the whole list, 2^18 bytes.
func (l *list) bitmap() []byte {
	all := make([]byte, listChunks*chunkBytes)
	for i, c := range l.chunks {
		if c != nil {
			copy(all[i*chunkBytes:], c.bits[:])
		}
	}
	return all
}

// ErrNoList says that there is no such status list, or not any longer.
var ErrNoList = errors.New("no such status list")

// StatusList returns a status list as a signed statuslist+jwt (Token Status List, 5.1)
// by the last part of its URI, or [ErrNoList]. It reflects the feed's sequence that
// this node has followed to when it is asked, and says which that is.
func (s *Server) StatusList(ctx context.Context, id string) (string, error) {
	number, ok := parseListID(id)
	if !ok {
		return "", ErrNoList
	}
	if err := s.know(ctx); err != nil {
		return "", err
	}
	l, err := s.list(ctx, number)
	if err != nil {
		return "", err
	}
	return s.print(l)
}

// print signs a list as it is now.
func (s *Server) print(l *list) (string, error) {
	l.signing.Lock()
	defer l.signing.Unlock()
	f := &s.feed
	f.mu.Lock()
	if f.lists[l.number] != l { // the feed was begun anew: what is in it is of before
		f.mu.Unlock()
		return "", refuse(FeedUnknown)
	}
	seq, epoch := s.cache.seq.Load(), s.cache.epoch.Load()
	now := s.now()
	if l.printed != "" && l.seq == seq && now.Sub(l.at) < listFresh {
		f.mu.Unlock()
		return l.printed, nil
	}
	var bits []byte
	if l.lst == "" || l.lstSeq < l.last {
		bits = l.bitmap()
	}
	f.mu.Unlock()
	if bits != nil {
		lst, err := compress(bits)
		if err != nil {
			return "", err
		}
		l.lst, l.lstSeq = lst, seq
	}
	payload, err := json.Marshal(statusListClaims{
		Issuer: s.issuer, Subject: s.statusURI(l.number), IssuedAt: at(now), Expires: at(now.Add(listLife)), TTL: int64(listTTL.Seconds()),
		List: statusListBits{2, l.lst}, Epoch: epoch, Seq: seq,
	})
	if err != nil {
		return "", err
	}
	printed, err := s.keys.current.Load().sign[ForAccess].sign(typStatusList, payload, s.rand)
	if err != nil {
		return "", err
	}
	l.printed, l.seq, l.at = printed, seq, now
	return printed, nil
}

const (
	typStatusList = "statuslist+jwt"
	listLife      = time.Hour
	listTTL       = time.Minute
	listFresh     = listTTL / 2 // a list that did not change is signed anew after this
)

// statusListClaims is the payload of a status list; epoch and seq are ours.
type statusListClaims struct {
	Issuer   string         `json:"iss"`
	Subject  string         `json:"sub"`
	IssuedAt int64          `json:"iat"`
	Expires  int64          `json:"exp"`
	TTL      int64          `json:"ttl"` // seconds
	List     statusListBits `json:"status_list"`
	Epoch    int64          `json:"epoch"`
	Seq      int64          `json:"seq"`
}

type statusListBits struct {
	Bits int    `json:"bits"`
	List string `json:"lst"`
}

func compress(bits []byte) (string, error) {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := w.Write(bits); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(b.Bytes()), nil
}

// list returns a list, reading it when it is asked for the first time.
func (s *Server) list(ctx context.Context, number int64) (*list, error) {
	f := &s.feed
	f.mu.RLock()
	l, folded, seq := f.lists[number], f.folded, s.cache.seq.Load()
	f.mu.RUnlock()
	if l != nil {
		return l, nil
	}
	stored, err := s.storage.StatusList(ctx, number, folded)
	if errors.Is(err, ErrNotFound) {
		return nil, ErrNoList
	}
	if err != nil {
		return nil, err
	}
	l = &list{number: number, api: stored.API}
	for _, c := range stored.Chunks {
		if c.Chunk < 0 || c.Chunk >= listChunks || len(c.Bits) != chunkBytes {
			return nil, fmt.Errorf("oauth: chunk %d of status list %d is damaged", c.Chunk, number)
		}
		kept := &chunk{seq: c.Seq}
		copy(kept.bits[:], c.Bits)
		l.chunks[c.Chunk] = kept
	}
	for _, ch := range stored.Changes {
		l.apply(ch)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if other := f.lists[number]; other != nil {
		return other, nil
	}
	if seq < f.base {
		return nil, refuse(FeedUnknown) // so much happened meanwhile that some of it is forgotten
	}
	// What came by the feed while this was read, once more and in order: as of its
	// last event every value is right then.
	for _, e := range f.log {
		if e.rule == nil && e.seq > seq && e.change.Index>>IndexBits == number {
			l.apply(e.change)
		}
	}
	f.lists[number] = l
	return l, nil
}

// forgetLists drops the lists that the database has dropped. Nothing hangs on when: a
// list goes long after all that it tells of is over.
func (s *Server) forgetLists(ctx context.Context) error {
	gone, err := s.storage.GoneLists(ctx)
	if err != nil {
		return err
	}
	f := &s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, number := range gone {
		delete(f.lists, number)
	}
	return nil
}

// parseListID reads what [Server.statusURI] prints last.
func parseListID(id string) (int64, bool) {
	epoch, n, found := strings.Cut(id, "-")
	e, err1 := strconv.ParseInt(epoch, 10, 64)
	i, err2 := strconv.ParseInt(n, 10, 64)
	if !found || err1 != nil || err2 != nil || e < 0 || e >= 1<<EpochBits || i < 0 || i >= 1<<ListBits || listID(e<<ListBits|i) != id {
		return 0, false
	}
	return e<<ListBits | i, true
}

// ListID names the list of a family's index, as in its URI.
func ListID(index int64) string { return listID(index >> IndexBits) }

func listID(number int64) string {
	return strconv.FormatInt(number>>ListBits, 10) + "-" + strconv.FormatInt(number&(1<<ListBits-1), 10)
}

func (s *Server) statusURI(number int64) string { return s.issuer + "/status/" + listID(number) }

// fold writes changes into the chunks of their lists, and the bits under rules, so
// that neither the feed nor the rules grow for ever. Of several nodes the one that
// holds the lease does it; two would do no harm.
func (s *Server) fold(ctx context.Context) error {
	now := s.now()
	held, err := s.storage.Lease(ctx, "fold", s.node, now, now.Add(foldLease))
	if err != nil || !held {
		return err
	}
	if err := s.foldRules(ctx); err != nil {
		return err
	}
	p, err := s.storage.Present(ctx)
	for err == nil && p.Folded < p.Seq && s.now().Sub(now) < foldLease/2 {
		upto := min(p.Seq, p.Folded+foldBatch)
		var changes []StatusChange
		if changes, err = s.storage.StatusChanges(ctx, p.Folded, upto); err != nil {
			return err
		}
		var chunks []StatusChunk
		if chunks, err = s.chunksAfter(ctx, changes, upto); err != nil {
			return err
		}
		if _, err = s.storage.FoldChunks(ctx, p.Folded, upto, chunks); err == nil {
			p, err = s.storage.Present(ctx)
		}
	}
	return err
}

const (
	foldEvery  = 5 * time.Second
	foldLease  = 4 * foldEvery
	foldBatch  = 200 // events whose changes are folded at once
	foldGrants = 100 // grants under a rule that are changed at once
)

// chunksAfter is what becomes of chunks by changes.
func (s *Server) chunksAfter(ctx context.Context, changes []StatusChange, upto int64) ([]StatusChunk, error) {
	var chunks []StatusChunk
	for _, ch := range changes {
		number, place := ch.Index>>IndexBits, ch.Index&(1<<IndexBits-1)
		n := place / ChunkValues
		i := slices.IndexFunc(chunks, func(c StatusChunk) bool { return c.List == number && c.Chunk == n })
		if i < 0 {
			bits, err := s.storage.Chunk(ctx, number, n)
			if errors.Is(err, ErrNotFound) {
				bits, err = make([]byte, chunkBytes), nil
			}
			if err != nil {
				return nil, err
			}
			if len(bits) != chunkBytes {
				return nil, fmt.Errorf("oauth: chunk %d of status list %d is damaged", n, number)
			}
			i = len(chunks)
			chunks = append(chunks, StatusChunk{List: number, Chunk: n, Bits: slices.Clone(bits), Seq: upto})
		}
		SetStatus(chunks[i].Bits, place%ChunkValues, ch.Value)
	}
	return chunks, nil
}

func (s *Server) foldRules(ctx context.Context) error {
	rules, err := s.storage.Foldings(ctx)
	if err != nil {
		return err
	}
	for began := time.Now(); len(rules) > 0 && time.Since(began) < foldLease/2; {
		for _, r := range rules {
			e, err := s.NewEvent(ctx, EventRuleFolded, Actor{Kind: AsSystem}, map[string]any{"kind": r.Kind, "subject": r.Subject, "lifted": r.Done})
			if err != nil {
				return err
			}
			if _, err := s.storage.FoldRule(ctx, r, foldGrants, e); err != nil {
				return err
			}
		}
		if rules, err = s.storage.Foldings(ctx); err != nil {
			return err
		}
	}
	return nil
}
