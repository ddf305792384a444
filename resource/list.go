package resource

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// A list has 2^20 entries of two bits (Token Status List, section 4), 256 KiB.
	listEntries = 1 << 20
	listBytes   = listEntries / 4
	// chunkEntries of them stand in one piece of memory, 1 KiB, which is there once one of them is not valid.
	chunkEntries = 4096
	// maxList bounds a list as it is served, in bytes: 256 KiB that do not compress, twice in base64, and room.
	maxList = 1 << 20
)

// chunk is a piece of a list: entry i has the bits 2(i%32) and above of the word i/32.
type chunk [chunkEntries / 32]atomic.Uint64

// list is what is known of 2^20 keys. Checks read it without a lock; whoever writes holds follower.mu. Where all keys
// are valid nothing is stored.
type list struct {
	seq    int64 // the feed's sequence that it had when it was fetched: changes up to there are in it
	chunks [listEntries / chunkEntries]atomic.Pointer[chunk]
}

func (l *list) value(i int32) value {
	c := l.chunks[i/chunkEntries].Load()
	if c == nil {
		return valid
	}
	return value(c[i%chunkEntries/32].Load() >> (i % 32 * 2) & 3)
}

func (l *list) set(i int32, v value) {
	c := l.chunks[i/chunkEntries].Load()
	if c == nil {
		if v == valid {
			return
		}
		c = new(chunk)
		l.chunks[i/chunkEntries].Store(c)
	}
	word, shift := &c[i%chunkEntries/32], i%32*2
	word.Store(word.Load()&^(3<<shift) | uint64(v)<<shift)
}

// follow puts a change into effect, unless the list had it when it was fetched.
func (l *list) follow(c change) {
	if c.seq > l.seq {
		l.set(c.idx, c.value)
	}
}

// newList takes over the bits of a list, entry i in byte i/4, the lowest bits first.
func newList(seq int64, bits []byte) *list {
	l := &list{seq: seq}
	var zero [chunkEntries / 4]byte
	for n := range l.chunks {
		part := bits[n*len(zero) : (n+1)*len(zero)]
		if bytes.Equal(part, zero[:]) {
			continue
		}
		c := new(chunk)
		for w := range c {
			c[w].Store(binary.LittleEndian.Uint64(part[8*w:]))
		}
		l.chunks[n].Store(c)
	}
	return l
}

// listID returns the id of the issuer's list that a status claim points to, "" if it points elsewhere.
func listID(issuer, uri string) string {
	id, ok := strings.CutPrefix(uri, base(issuer)+"/status/")
	if !ok || !isListID(id) {
		return ""
	}
	return id
}

func isListID[T string | []byte](id T) bool {
	dash := 0
	for i := range len(id) {
		switch c := id[i]; {
		case c == '-' && dash == 0:
			dash = i
		case c < '0' || c > '9':
			return false
		}
	}
	last := len(id) - dash - 1
	return dash >= 1 && dash <= 19 && last >= 1 && last <= 4
}

// signedList is a list as the issuer signed it.
type signedList struct {
	iss, sub   string
	exp        int64
	epoch, seq int64
	bits       []byte
	has        listClaim
}

type listClaim uint

const (
	listIss listClaim = 1 << iota
	listSub
	listExp
	listEpoch
	listSeq
	listBits

	wholeList = listIss | listSub | listExp | listEpoch | listSeq | listBits
)

// readList checks a statuslist+jwt (Token Status List, sections 5 and 8) that was fetched from uri.
func (v *Verifier) readList(uri string, body []byte) (*signedList, error) {
	j, ok := parseJWS(strings.TrimSpace(string(body)), maxList)
	if !ok || j.typ != "statuslist+jwt" {
		return nil, errors.New("the answer is not a status list")
	}
	l := &signedList{}
	if err := l.read(j.claims); err != nil {
		return nil, err
	}
	k, err := v.access.lookup(v.ctx, j.kid)
	if err != nil {
		return nil, err
	}
	switch now := int64(v.clock().wall / time.Second); {
	case j.alg != k.alg || !k.verify(j.signed, j.sig):
		return nil, errors.New("the list's signature is wrong")
	case l.has != wholeList:
		return nil, errors.New("the list lacks a claim")
	case l.iss != v.cfg.Issuer:
		return nil, errors.New("the list is another issuer's")
	case l.sub != uri:
		return nil, errors.New("the answer is another list")
	case now >= l.exp:
		return nil, errors.New("the list has expired")
	}
	return l, nil
}

func (l *signedList) read(claims []byte) error {
	r := jsonReader{b: claims}
	number := func(n *int64, c listClaim) (err error) {
		l.has |= c
		*n, err = r.integer()
		return err
	}
	text := func(s *string, c listClaim) (err error) {
		l.has |= c
		*s, err = r.str()
		return err
	}
	return r.document(func(name []byte) error {
		switch string(name) {
		case "iss":
			return text(&l.iss, listIss)
		case "sub":
			return text(&l.sub, listSub)
		case "exp":
			return number(&l.exp, listExp)
		case "epoch":
			return number(&l.epoch, listEpoch)
		case "seq":
			return number(&l.seq, listSeq)
		case "status_list":
			l.has |= listBits
			return l.readBits(&r)
		}
		return r.skip()
	})
}

func (l *signedList) readBits(r *jsonReader) error {
	var bits int64
	var packed []byte
	err := r.object(func(name []byte) (err error) {
		switch string(name) {
		case "bits":
			bits, err = r.integer()
		case "lst":
			packed, err = r.bytes()
		default:
			err = r.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if bits != 2 {
		return errors.New("the list has not two bits a key")
	}
	raw, err := b64.AppendDecode(nil, packed)
	if err != nil {
		return errors.New("the list is not base64url")
	}
	inflate, err := zlib.NewReader(bytes.NewReader(raw))
	if err != nil {
		return errors.New("the list is not compressed by zlib")
	}
	// One byte more than a list has, so that a longer one is found out and nothing longer is held.
	if l.bits, err = io.ReadAll(io.LimitReader(inflate, listBytes+1)); err != nil || len(l.bits) != listBytes {
		return errors.New("the list is not of 2^20 keys")
	}
	return nil
}
