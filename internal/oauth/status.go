package oauth

import "time"

// StatusValue is what a status list says of a key (Token Status List, 7.1; 3 is left
// to applications there).
type StatusValue int64

// The values. A verifier that does not know the last one takes it for invalid.
const (
	StatusValid     StatusValue = 0
	StatusInvalid   StatusValue = 1
	StatusSuspended StatusValue = 2
	StatusAsk       StatusValue = 3 // by introspection
)

// StatusChange is the value of an index from an event of the feed on. An event may
// name an index whose value stays: what was asked about the key is then of before.
type StatusChange struct {
	Seq   int64
	Index int64 // as in [Family]
	API   string
	Value StatusValue
}

// RuleKind says whose keys a rule is about.
type RuleKind string

// The kinds of rules.
const (
	RuleClient RuleKind = "client" // an app's
	RuleStore  RuleKind = "store"  // those that print a store
	RuleKey    RuleKind = "key"    // what a signing key has signed
	RuleAll    RuleKind = "all"
)

// Rule is about many keys at once: those whose iseq is below Before. It compares no
// times, so no clock has to be right: a key is signed after its iseq was read, and
// one that is issued beside the event falls under the rule or has seen it.
//
// Of a client, Value is invalid, or suspended; of a store, invalid (the store is
// denied at once, and keys that print it are asked about) or ask. Valid lifts a rule.
type Rule struct {
	Seq     int64 // of the event that set it
	Kind    RuleKind
	Subject string
	Before  int64
	Value   StatusValue
}

// Folding is a rule whose bits are being written.
type Folding struct {
	Kind    RuleKind
	Subject string
	Before  int64
	After   string // how far it has come
	Done    bool   // every bit is written
}

// StatusChunk is 4096 values, two bits each, the first in the lowest bits of the
// first byte (Token Status List, 4.1).
type StatusChunk struct {
	List, Chunk int64
	Bits        []byte
	Seq         int64 // everything up to this is in it
}

// ChunkValues is how many values stand in a chunk; a list has 2^IndexBits.
const ChunkValues = 4096

const (
	chunkBytes = ChunkValues / 4
	listChunks = 1 << IndexBits / ChunkValues
)

// StoredList is a status list at rest: its chunks, of which those that are missing
// are all valid, and the changes that may not have been folded into them.
type StoredList struct {
	Number    int64
	API, Kind string
	Chunks    []StatusChunk
	Changes   []StatusChange
}

// Present is where the database stands.
type Present struct {
	Seq, Epoch int64  // of the feed
	Folded     int64  // every change up to here is in the chunks
	Kept       int64  // changes up to here are removed
	Beat       int64  // moves while somebody follows
	Beats      bool   // the database may answer reads after another took its place
	Last       string // id of the event numbered Seq, "" if there is none any more
}

// News is where the database stands, and what has happened after a sequence.
type News struct {
	Present
	Seen    string         // id of the event that has the number asked after, "" if there is none any more
	Events  []FeedEvent    // in order, like what follows
	Changes []StatusChange // by these events
	Rules   []Rule         // set or lifted by them
}

// FeedEvent is what a node needs of an event to know what of its own is old now.
type FeedEvent struct {
	Seq      int64
	ID       string
	Kind     Kind
	ClientID string // "" if it is about none
}

// How long things are kept that followers may need.
const (
	FeedKept     = time.Hour // changes: a follower that was away for longer begins anew
	FollowerKept = time.Hour // a follower that was not seen for so long is gone
	BlockKept    = 24 * time.Hour
)
