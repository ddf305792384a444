package oauth

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The event log is a file of JSON lines to which an export appends every event.
// Kept apart from the database, it tells a restored one what ended after its
// backup. The feed's events are numbered without a gap, so what is missing shows.
// The others are sorted by ids that were made before they were committed: an event
// may turn up behind one that was exported already, so the last lateness of them
// is read again and again, and what stands in the log is passed over.
//
// A mark says until when the log holds everything. It also says whose log it is, and
// so does the first line: by the numbers alone, the log of any installation may seem to
// be that of one that was restored. A log that says nothing was begun by a grantway that
// did not write it yet; there the numbers and ids must do.
const lateness = time.Minute // an event is committed 15 s after its id was made, or never

type logLine struct {
	Epoch    int64           `json:"epoch"`
	Seq      int64           `json:"seq"` // of a mark: the feed's last; 0 for events outside the feed
	Of       string          `json:"installation,omitempty"`
	Until    *time.Time      `json:"complete_until,omitempty"`
	ID       string          `json:"id,omitempty"`
	At       *time.Time      `json:"at,omitempty"`
	Kind     Kind            `json:"kind,omitempty"`
	Actor    string          `json:"actor,omitempty"`
	ClientID string          `json:"client_id,omitempty"`
	UserID   string          `json:"user_id,omitempty"`
	GrantID  string          `json:"grant_id,omitempty"`
	StoreID  string          `json:"store_id,omitempty"`
	Request  string          `json:"request_id,omitempty"`
	Payload  json.RawMessage `json:"payload,omitempty"`
}

var lineBegins = []byte(`{"epoch":`)

// LogEnd is where a log ends.
type LogEnd struct {
	Size       int64     // bytes of whole lines; what follows was cut off by a crash
	Epoch, Seq int64     // how far the feed was exported
	Until      time.Time // everything committed before is in the log

	of     string              // the installation, "" if the log does not say it
	last   string              // id of the feed's event at Seq, if it stands in the log
	recent map[string]struct{} // ids of events outside the feed that may be read again
}

// LogEntry is an event in a log, or a mark: that has no id, and its Seq is how far the
// feed was exported.
type LogEntry struct {
	Event
	Epoch int64  // in which it has its Seq
	of    string // the installation, where the line says it
}

// ReadLog reads an event log, and hands everything in it to each.
func ReadLog(r io.Reader, each func(LogEntry) error) (*LogEnd, error) {
	end := &LogEnd{recent: map[string]struct{}{}}
	lines := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; n++ {
		text, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			// Whoever goes on with the log cuts this off, so it must not be another file.
			if end.Size == 0 && !bytes.HasPrefix(text, lineBegins[:min(len(text), len(lineBegins))]) {
				return nil, fmt.Errorf("line %d is none of an event log", n)
			}
			return end, nil
		}
		if err != nil {
			return nil, err
		}
		var l logLine
		if err := json.Unmarshal(text, &l); err != nil || l.Epoch == 0 || (l.Until == nil) == (l.ID == "" || l.At == nil) {
			return nil, fmt.Errorf("line %d is none of an event log", n)
		}
		end.Size += int64(len(text))
		end.add(&l)
		if each == nil {
			continue
		}
		e := Event{ID: l.ID, Seq: l.Seq, Kind: l.Kind, Actor: l.Actor, ClientID: l.ClientID, UserID: l.UserID, GrantID: l.GrantID,
			StoreID: l.StoreID, Request: l.Request, Payload: l.Payload}
		if l.At != nil {
			e.At = *l.At
		}
		if err := each(LogEntry{e, l.Epoch, l.Of}); err != nil {
			return nil, err
		}
	}
}

func (end *LogEnd) add(l *logLine) {
	if l.Of != "" {
		end.of = l.Of
	}
	switch {
	case l.Until != nil:
		end.Until = *l.Until
		floor := idFloor("ev_", end.Until.Add(-2*lateness))
		for id := range end.recent {
			if id < floor {
				delete(end.recent, id)
			}
		}
	case l.Seq == 0:
		end.recent[l.ID] = struct{}{}
		return
	default:
		end.last = l.ID
	}
	end.Epoch, end.Seq = l.Epoch, l.Seq
}

// Holds reports whether the event outside the feed that has this id is in the log.
func (end *LogEnd) Holds(id string) bool {
	_, there := end.recent[id]
	return there || id < idFloor("ev_", end.Until.Add(-lateness))
}

// idFloor is less than every id made by [NewID] at t or later.
func idFloor(prefix string, t time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(max(t.UnixMilli(), 0))<<16)
	return prefix + idEncoding.EncodeToString(b[:8])[:9] // 45 of the 48 bits of time
}

// idTime is when an id was made, or up to a quarter of a second before; zero of what
// [NewID] did not make.
func idTime(id string) time.Time {
	_, text, _ := strings.Cut(id, "_")
	var b [8]byte
	if len(text) < 8 {
		return time.Time{}
	}
	if _, err := idEncoding.Decode(b[:5], []byte(text[:8])); err != nil { // 40 of the 48 bits of time
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[:]) >> 16))
}

// Restored is the payload of database.restored, the first event of an epoch.
type Restored struct {
	Epoch     int64     `json:"epoch"`
	FromEpoch int64     `json:"from_epoch"`
	FromSeq   int64     `json:"from_seq"`
	Made      time.Time `json:"backup_made"`
	EndedAll  bool      `json:"ended_all,omitempty"`
	LogUntil  time.Time `json:"log_until,omitzero"` // what ended since then may live again
}

// Export appends events to a log.
type Export struct {
	s    *Server
	end  *LogEnd
	of   string // the installation
	from string // events outside the feed are read from here on
}

// ExportAfter begins an export that goes on where a log ends; an empty one begins
// with the oldest event. The log must be this database's.
func (s *Server) ExportAfter(ctx context.Context, actor Actor, end *LogEnd) (*Export, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	keys, err := s.storage.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	if end.of != "" && !isOf(keys, end.of) {
		return nil, ErrForeignLog
	}
	x := &Export{s: s, end: end, of: keys[0].Kid}
	if end.Size > 0 {
		x.from = idFloor("ev_", end.Until.Add(-lateness))
	}
	_, err = x.feed(ctx, 0)
	if errors.Is(err, ErrBehind) && end.of == "" {
		err = fmt.Errorf("%w, or %w", ErrForeignLog, err)
	}
	if err != nil {
		return nil, err
	}
	return x, nil
}

// feed reads at most so many events that come after the log's end. The one at the end
// is read with them: once the database has lost events, other events get their numbers,
// and whoever went by the number alone would pass over those. In a new epoch the export
// goes on where the log still fits, or else with the event that began it.
func (x *Export) feed(ctx context.Context, limit int) ([]Event, error) {
	seq, epoch, err := x.s.storage.Head(ctx)
	if err != nil {
		return nil, err
	}
	end := x.end
	if end.Epoch == 0 {
		if err := x.catchUp(ctx, epoch); err != nil {
			return nil, err
		}
	}
	list, err := x.s.storage.FeedAfter(ctx, end.Seq-1, limit+1)
	if err != nil {
		return nil, err
	}
	last := ""
	if len(list) > 0 && list[0].Seq == end.Seq {
		last, list = list[0].ID, list[1:]
	}
	switch {
	case end.last == "" || last == end.last:
		return list, nil
	case last == "" && epoch == end.Epoch && seq >= end.Seq: // it is so old that it was removed
		return list, nil
	case epoch <= end.Epoch:
		return nil, ErrBehind
	}
	if err := x.catchUp(ctx, epoch); err != nil {
		return nil, err
	}
	return x.s.storage.FeedAfter(ctx, end.Seq, limit)
}

// isOf reports whether an id in a log is that of the installation that has these signing
// keys. An installation goes by its oldest one, which every backup of it has: rows of
// keys stay when they are cut off.
func isOf(keys []StoredKey, id string) bool {
	return slices.ContainsFunc(keys, func(k StoredKey) bool { return k.Kid == id })
}

// catchUp finds the restore since which the log lacks everything, or, for an empty
// log, the epoch of the oldest event.
func (x *Export) catchUp(ctx context.Context, epoch int64) error {
	restored, err := x.s.storage.Restores(ctx)
	if err != nil {
		return err
	}
	empty := x.end.Epoch == 0
	switch {
	case empty:
		x.end.Epoch = epoch
	case x.end.of == "":
		return errUnnamedLog
	}
	for _, e := range restored {
		var p Restored
		if err := json.Unmarshal(e.Payload, &p); err != nil {
			return fmt.Errorf("event %s: %w", e.ID, err)
		}
		switch {
		case empty:
			x.end.Epoch = p.FromEpoch
			return nil
		case p.Epoch > x.end.Epoch && p.FromEpoch <= x.end.Epoch:
			x.end.Seq, x.end.last = e.Seq-1, ""
			return nil
		}
	}
	if !empty {
		return ErrForeignLog
	}
	return nil
}

// ErrForeignLog says that a log is not that of this installation.
var ErrForeignLog = errors.New("the log is that of another installation: name the one of this")

var errUnnamedLog = errors.New("an older grantway wrote this log, which does not say whose it is, and the database was restored since: begin a new file, into which everything goes")

const (
	exportPage = 1000 // events that are read at a time
	exportMark = 10   // pages of what is long past, until the next mark
)

// Next writes what happened since the last call, and returns how many events that
// were. If late, it reads again what may have come late, and ends with a mark; where much
// is to be read there are others before. While
// the database lacks what the log holds, it writes nothing and fails with [ErrBehind].
func (x *Export) Next(ctx context.Context, w io.Writer, late bool) (events int, err error) {
	began := x.s.now().Truncate(time.Microsecond)
	write := func(l logLine) error {
		if l.Until != nil || x.end.of == "" {
			l.Of = x.of
		}
		text, err := json.Marshal(l)
		if err != nil {
			return err
		}
		x.end.add(&l)
		_, err = w.Write(append(text, '\n'))
		return err
	}
	for {
		list, err := x.feed(ctx, exportPage)
		if err != nil {
			return events, err
		}
		for i := range list {
			if list[i].Kind == EventRestored {
				var p Restored
				if err := json.Unmarshal(list[i].Payload, &p); err != nil {
					return events, fmt.Errorf("event %s: %w", list[i].ID, err)
				}
				x.end.Epoch = p.Epoch
			}
			if err := write(lineOf(x.end.Epoch, &list[i])); err != nil {
				return events, err
			}
			events++
		}
		if len(list) < exportPage {
			break
		}
	}
	// The last mark says from when on something may have come late, however long ago that
	// is: the database may have been away.
	from := x.from
	if late {
		from = min(from, idFloor("ev_", x.end.Until.Add(-lateness)))
	}
	for pages := 1; ; pages++ {
		list, err := x.s.storage.EventsOutside(ctx, from, exportPage)
		if err != nil {
			return events, err
		}
		for i := range list {
			from = list[i].ID
			if _, there := x.end.recent[from]; there {
				continue
			}
			if err := write(lineOf(x.end.Epoch, &list[i])); err != nil {
				return events, err
			}
			events++
		}
		x.from = max(x.from, from)
		if len(list) < exportPage {
			break
		}
		// Of what lies that far back nothing comes late: who reads the log need not keep its
		// ids in mind, nor do we.
		if until := min(idTime(from).UnixMicro(), began.Add(-lateness).UnixMicro()); late && pages%exportMark == 0 && until > x.end.Until.UnixMicro() {
			at := time.UnixMicro(until).UTC()
			if err := write(logLine{Epoch: x.end.Epoch, Seq: x.end.Seq, Until: &at}); err != nil {
				return events, err
			}
		}
	}
	if late {
		err = write(logLine{Epoch: x.end.Epoch, Seq: x.end.Seq, Until: &began})
	}
	return events, err
}

func lineOf(epoch int64, e *Event) logLine {
	at := e.At
	return logLine{Epoch: epoch, Seq: e.Seq, ID: e.ID, At: &at, Kind: e.Kind, Actor: e.Actor, ClientID: e.ClientID, UserID: e.UserID,
		GrantID: e.GrantID, StoreID: e.StoreID, Request: e.Request, Payload: e.Payload}
}

// Missing is the error of a log that lacks events of the feed.
type Missing struct{ From, To int64 }

func (m *Missing) Error() string {
	return fmt.Sprintf("the log lacks the events %d to %d", m.From, m.To)
}

// Recovered says what a log told a restored database.
type Recovered struct {
	LogEnd
	Changed  int  // events that ended or changed something
	EndedAll bool // a restore since the backup ended every grant
}

// Recover replays on a restored database what a log says happened after its
// backup, which was made at that time. The log must reach beyond the backup without
// a gap.
func Recover(ctx context.Context, s Storage, now time.Time, random io.Reader, made time.Time, log io.Reader) (*Recovered, error) {
	seq, epoch, err := s.Head(ctx)
	if err != nil {
		return nil, err
	}
	// Events outside the feed have no numbers: those that the backup holds are known
	// by their ids, and what is older than this it holds for certain.
	oldest := idFloor("ev_", made.Add(-2*lateness))
	held := map[string]bool{}
	for from := oldest; ; {
		list, err := s.EventsOutside(ctx, from, exportPage)
		if err != nil {
			return nil, err
		}
		for i := range list {
			from = list[i].ID
			held[from] = true
		}
		if len(list) < exportPage {
			break
		}
	}
	keys, err := s.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	// One event that both have shows that the log is this database's.
	newest, err := s.FeedAfter(ctx, seq-1, 1)
	if err != nil {
		return nil, err
	}
	got := &Recovered{}
	at, last := epoch, seq
	end, err := ReadLog(log, func(e LogEntry) error {
		switch of := e.Epoch; {
		case e.of != "" && !isOf(keys, e.of):
			return ErrForeignLog
		case e.ID == "":
			if of > at || of == at && e.Seq > last {
				return &Missing{last + 1, e.Seq}
			}
			return nil
		case e.Seq == 0:
			if e.ID < oldest || held[e.ID] {
				return nil
			}
		case of == epoch && len(newest) > 0 && e.Seq == newest[0].Seq && e.ID != newest[0].ID:
			return ErrForeignLog
		case of < at || of == at && e.Seq <= last:
			return nil
		case of == at && e.Seq > last+1:
			return &Missing{last + 1, e.Seq - 1}
		case of > at:
			var p Restored
			if e.Kind != EventRestored {
				return &Missing{last + 1, e.Seq - 1}
			}
			if err := json.Unmarshal(e.Payload, &p); err != nil {
				return fmt.Errorf("event %s: %w", e.ID, err)
			}
			if p.FromEpoch == at && p.FromSeq > last {
				return &Missing{last + 1, p.FromSeq}
			}
			got.EndedAll = got.EndedAll || p.EndedAll
			at, last = e.Epoch, e.Seq
		default:
			last = e.Seq
		}
		changed, err := Replay(ctx, s, now, random, e.Event)
		if changed {
			got.Changed++
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	got.LogEnd = *end
	if end.Epoch < epoch || end.Epoch == epoch && end.Seq < seq {
		return got, &Missing{end.Seq + 1, seq}
	}
	return got, nil
}

// NewRestored makes the event of a restore.
func NewRestored(now time.Time, random io.Reader, r Restored) (Event, error) {
	id, err := NewID("ev_", now, random)
	if err != nil {
		return Event{}, err
	}
	payload, err := json.Marshal(r)
	return Event{ID: id, At: now, Kind: EventRestored, Actor: Actor{Kind: AsCommand}.String(), Payload: payload}, err
}
