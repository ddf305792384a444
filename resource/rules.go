package resource

import (
	"maps"
	"slices"
)

// value is what a list or a rule says of a key.
type value uint8

const (
	valid value = iota
	invalid
	suspended
	ask // what the key may do is not what it prints: introspection says
)

// ruleKind is what a rule is about.
type ruleKind string

const (
	ruleClient ruleKind = "client" // every key of an app
	ruleKey    ruleKind = "key"    // every key signed by one signing key
	ruleAll    ruleKind = "all"    // every key
	ruleStore  ruleKind = "store"  // one store of every key
)

// subject is what a rule is about. There is one rule for one subject.
type subject struct {
	kind ruleKind
	id   string
}

// rule is one cut-off: it covers keys issued before a place in the feed, never before a time. That place is what the key
// says of itself, so one about a signing key covers all that the key has signed: who holds it writes there what he likes,
// and the issuer signs nothing by it any more.
type rule struct {
	seq, before int64
	value       value
}

func (r rule) covers(t *token) bool { return t.iseq < r.before }

// known says whether a feed may say this of that kind. Valid lifts a rule.
func (k ruleKind) known(v value) bool {
	switch k {
	case ruleClient:
		return v == valid || v == invalid || v == suspended
	case ruleKey, ruleAll:
		return v == valid || v == invalid
	case ruleStore:
		return v == valid || v == invalid || v == ask
	}
	return false
}

// rules is the complete set. It never changes: with makes another.
type rules struct {
	one    map[subject]rule
	stores int // rules about stores, of which most issuers have none
	// storeSet is when the last of them was set. It stays when the rule is lifted, because that says only that the bits
	// were written of those keys that print the store.
	storeSet int64
}

// with returns the set after changes; a later rule replaces an earlier one about the same subject.
func (r *rules) with(changes []ruleChange) *rules {
	after := &rules{one: maps.Clone(r.one), storeSet: r.storeSet}
	if after.one == nil {
		after.one = map[subject]rule{}
	}
	for _, c := range changes {
		if after.one[c.subject].seq > c.seq {
			continue
		}
		if after.one[c.subject] = c.rule; c.value == valid {
			delete(after.one, c.subject)
		} else if c.kind == ruleStore {
			after.storeSet = max(after.storeSet, c.seq)
		}
	}
	for s := range after.one {
		if s.kind == ruleStore {
			after.stores++
		}
	}
	return after
}

// refuses says whether a rule makes the key invalid or suspended.
func (r *rules) refuses(t *token) bool {
	if len(r.one) == r.stores {
		return false
	}
	for _, s := range [...]subject{{ruleAll, ""}, {ruleKey, t.kid}, {ruleClient, t.clientID}} {
		if one, ok := r.one[s]; ok && (s.kind == ruleKey || one.covers(t)) {
			return true
		}
	}
	return false
}

// outdates says whether a rule about a store was set after since, of which a key that prints no stores may have had any:
// no event need have named it.
func (r *rules) outdates(t *token, since int64) bool {
	return t.has&hasRights == 0 && since < r.storeSet
}

// asks says whether a rule later than since makes the issuer the one to say what the key may do: one about a store that
// the key prints.
func (r *rules) asks(t *token, since int64) bool {
	if r.stores == 0 {
		return false
	}
	for _, right := range t.rights {
		for _, id := range right.stores {
			if one, ok := r.one[subject{ruleStore, id}]; ok && one.covers(t) && one.seq > since {
				return true
			}
		}
	}
	return false
}

// without takes the stores that a rule denies to the key out of what it may do. Scopes that were about stores go when
// none of their stores is left.
func (r *rules) without(t *token, p powers) powers {
	denied := func(id string) bool {
		one, ok := r.one[subject{ruleStore, id}]
		return ok && one.value == invalid && one.covers(t)
	}
	if r.stores == 0 || !slices.ContainsFunc(p.rights, func(x right) bool { return slices.ContainsFunc(x.stores, denied) }) {
		return p
	}
	var left powers
	for _, x := range p.rights {
		x.stores = slices.DeleteFunc(slices.Clone(x.stores), denied)
		left.rights = append(left.rights, x)
	}
	for _, s := range p.scopes {
		if !somewhere(p.rights, s) || somewhere(left.rights, s) {
			left.scopes = append(left.scopes, s)
		}
	}
	return left
}
