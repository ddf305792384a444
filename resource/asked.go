package resource

const (
	// askedHalf bounds the places whose answers are kept: two generations of at most so many, about half a kilobyte each.
	askedHalf = 1 << 16
	// askedTokens bounds the answers for one place: access tokens of one refresh chain share it.
	askedTokens = 4
)

// place is where a key's bits are.
type place struct {
	list string
	idx  int32
}

// asked keeps what the issuer answered about keys whose value is ask. An answer is good as long as no event later than it
// names the place, which forget sees to, and no later rule covers the key, which rules.asks finds out at each check. It
// holds nothing by itself: without a live lease nobody looks here. All of it happens under follower.mu.
type asked struct{ new, old map[place]*askedPlace }

// askedPlace knows every event that named its place later than since.
type askedPlace struct {
	since   int64
	changed int64 // the last of them, 0 for none
	answers []askedToken
}

type askedToken struct {
	token  digest
	seq    int64 // as of which the answer is true at least
	powers powers
}

func (a *asked) find(p place) *askedPlace {
	if one := a.new[p]; one != nil {
		return one
	}
	return a.old[p]
}

// begin is called before a question is asked, with the feed's sequence as it is known here: whatever the feed says
// of the place from then on, while the question is out too, counts against the answer.
func (a *asked) begin(p place, seq int64) {
	one := a.find(p)
	if one == nil {
		one = &askedPlace{since: seq}
	}
	if a.new == nil || len(a.new) >= askedHalf {
		a.old, a.new = a.new, map[place]*askedPlace{}
	}
	a.new[p] = one
}

// forget is called with each event.
func (a *asked) forget(p place, seq int64) {
	if one := a.find(p); one != nil {
		one.changed, one.answers = seq, nil
	}
}

// older says whether an event later than an answer may have named the place. Of a place that was not begun when the
// question went out, or was dropped since, nothing is known but where the feed is.
func (a *asked) older(p place, seq, now int64) bool {
	if one := a.find(p); one != nil {
		return seq < one.changed
	}
	return seq < now
}

// keep keeps an answer that is not older, if it is as new as what was known of the place when the question began.
func (a *asked) keep(p place, seq int64, token digest, may powers) {
	one := a.find(p)
	if one == nil || seq < one.since {
		return
	}
	for n := range one.answers {
		if k := &one.answers[n]; k.token == token {
			if k.seq <= seq {
				k.seq, k.powers = seq, may
			}
			return
		}
	}
	if len(one.answers) == askedTokens {
		one.answers = one.answers[1:]
	}
	one.answers = append(one.answers, askedToken{token, seq, may})
}

func (a *asked) get(p place, token digest) (askedToken, bool) {
	if one := a.find(p); one != nil {
		for _, k := range one.answers {
			if k.token == token {
				return k, true
			}
		}
	}
	return askedToken{}, false
}

// asks is called before a question goes out. Without a live lease it begins nothing: an outage, in which everybody is asked
// about, would push out all that is kept.
func (f *follower) asks(t *token) {
	if t.list == "" || !f.lease.Load().live(f.v.clock()) {
		return
	}
	f.mu.Lock()
	f.answers.begin(t.place, f.at.seq)
	f.mu.Unlock()
}

// answered holds an answer against the feed and keeps it if it may be used again. Without a live lease the answer is all
// there is. ok is false where the answer may be from before something that the feed has said.
func (f *follower) answered(id digest, t *token, ans *answer) (may powers, ok bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.lease.Load().live(f.v.clock()) {
		return ans.powers, true, nil
	}
	w := f.view.Load()
	if is, _ := w.value(t); is == invalid || is == suspended {
		return powers{}, true, refused("not_active")
	}
	may = w.rules.without(t, ans.powers)
	switch {
	case !ans.at.known || ans.at.epoch > f.at.epoch || t.list == "":
		return may, true, nil
	case ans.at.epoch < f.at.epoch || f.answers.older(t.place, ans.at.seq, f.at.seq) || w.rules.outdates(t, ans.at.seq):
		return powers{}, false, nil
	}
	f.answers.keep(t.place, ans.at.seq, id, ans.powers)
	return may, true, nil
}

// kept returns what the issuer answered before, if that still holds.
func (f *follower) kept(id digest, t *token) (powers, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	k, ok := f.answers.get(t.place, id)
	r := f.view.Load().rules
	if !ok || r.asks(t, k.seq) || r.outdates(t, k.seq) {
		return powers{}, false
	}
	return r.without(t, k.powers), true
}
