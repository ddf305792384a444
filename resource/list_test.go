package resource

import (
	"fmt"
	"math"
	"math/rand"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// A list is used when the feed was not further than it at the time it was asked for; until then its keys are asked about.
func TestList_olderThanTheFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		v, _ := i.wired(t)
		defer v.Close()
		token := i.held(t, 9, nil)
		old, seq := i.feed.now()
		i.feed.mark(10, invalid)
		settled(300 * time.Millisecond) // or the first list would not be older yet
		for name, edit := range map[string]object{"older": {"seq": seq}, "another epoch": {"epoch": old + 1}, "an earlier epoch": {"epoch": old - 1}} {
			i.feed.set(func() { i.feed.editList = edit })
			i.asked.Store(0)
			i.feed.lists.Store(0)
			for range 10 {
				check(t, v, token, 0, "")
				settled(20 * time.Millisecond)
			}
			if n := i.asked.Load(); n != 10 {
				t.Errorf("%s: asked %d times about 10 checks", name, n)
			}
			if n := i.feed.lists.Load(); n < 4 || n > 6 {
				t.Errorf("%s: the list was read %d times in 200 ms", name, n)
			}
		}
		// One that is ahead of the feed is used, and what it has already is passed over.
		_, seq = i.feed.now()
		i.feed.set(func() { i.feed.editList = object{"seq": seq + 1} })
		i.loaded(t, v, token)
		i.feed.mark(9, ask)
		heard()
		i.asked.Store(0)
		check(t, v, token, 0, "")
		if i.asked.Load() != 0 {
			t.Error("an event that the list had was applied")
		}
	})
}

// While a list is on its way the feed goes on, and the list is older than it when it is here. It is used, with what the feed
// has said of its keys since: nothing older than what is known is ever in effect.
func TestList_theFeedGoesOn(t *testing.T) {
	out := func(do func(i *issuer, v *Verifier, made, sent chan struct{}, want func(idx int, reason string, asked, read int64))) {
		synctest.Test(t, func(t *testing.T) {
			i := quietIssuer(t)
			v, _ := i.wired(t)
			defer v.Close()
			made, sent := make(chan struct{}), make(chan struct{})
			i.feed.set(func() {
				i.feed.failList = func(w http.ResponseWriter, _ *http.Request) {
					var text string
					<-made
					i.feed.set(func() { text = i.feed.signed("1-0", i.feed.bits["1-0"], nil) })
					<-sent
					fmt.Fprint(w, text)
				}
			})
			want := func(idx int, reason string, asked, read int64) {
				t.Helper()
				i.asked.Store(0)
				check(t, v, i.held(t, idx, nil), BadToken, reason)
				synctest.Wait()
				if a, r := i.asked.Load(), i.feed.lists.Load(); a != asked || r != read {
					t.Errorf("key %d: asked %d times, and %d lists read in all", idx, a, r)
				}
			}
			settled(time.Second)
			want(9, "", 1, 1)
			do(i, v, made, sent, want)
		})
	}
	// An event for every poll, and the list is made before all of them.
	out(func(i *issuer, v *Verifier, made, sent chan struct{}, want func(int, string, int64, int64)) {
		close(made)
		for idx := range int32(20) {
			i.feed.mark(20+idx, invalid)
			heard()
		}
		i.feed.mark(10, invalid)
		i.feed.mark(11, invalid)
		heard()
		i.feed.mark(11, valid)
		heard()
		close(sent)
		synctest.Wait()
		for range 5 {
			want(9, "", 0, 1)
			want(10, "not_active", 0, 1)
			want(11, "", 0, 1)
			i.feed.mark(12, invalid)
			heard()
			want(12, "not_active", 0, 1)
		}
		v.follow.want("1-0") // by a check that had looked before it was there
		want(9, "", 0, 1)
	})
	// One that is ahead of the feed when it is here has what was kept for it, and what came later.
	out(func(i *issuer, v *Verifier, made, sent chan struct{}, want func(int, string, int64, int64)) {
		i.feed.mark(9, invalid)
		heard()
		i.feed.set(func() { i.feed.fail = status(503) })
		settled(300 * time.Millisecond) // the poll that was held is over
		i.feed.mark(9, valid)
		close(made)
		close(sent)
		synctest.Wait()
		want(9, "", 0, 1)
		i.feed.set(func() { i.feed.fail = nil })
		settled(300 * time.Millisecond)
		want(9, "", 0, 1)
	})
	// The feed begins anew meanwhile, in the same epoch: what happened between is in no list of before.
	out(func(i *issuer, v *Verifier, made, sent chan struct{}, want func(int, string, int64, int64)) {
		close(made)
		synctest.Wait()
		i.feed.set(func() { i.feed.fail = status(410) })
		settled(300 * time.Millisecond)
		v.follow.want("1-0") // and there is nothing to hold a list against
		synctest.Wait()
		i.feed.mark(10, invalid)
		i.feed.set(func() { i.feed.fail = nil })
		settled(300 * time.Millisecond)
		close(sent)
		synctest.Wait()
		v.follow.want("1-0")
		synctest.Wait()
		want(10, "not_active", 0, 2)
	})
	// More than is kept: the list must be as new as what was forgotten.
	for _, late := range []bool{false, true} {
		out(func(i *issuer, v *Verifier, made, sent chan struct{}, want func(int, string, int64, int64)) {
			if !late {
				close(made)
			}
			synctest.Wait()
			for n := range int32(3) {
				var changes []change
				for idx := range int32(maxMissed - 1) {
					changes = append(changes, change{list: "1-0", idx: 100 + n*maxMissed + idx, value: invalid})
				}
				i.feed.event(nil, changes...)
				heard()
			}
			if late {
				close(made)
				synctest.Wait()
			}
			i.feed.mark(10, invalid)
			heard()
			if n := cap(v.follow.fetches["1-0"].missed); n > 2*maxMissed {
				t.Errorf("room for %d changes", n)
			}
			close(sent)
			settled(listStale)
			v.follow.want("1-0")
			synctest.Wait()
			for _, idx := range []int{10, 100, 100 + maxMissed, 100 + 3*maxMissed - 2} {
				want(idx, "not_active", 0, map[bool]int64{false: 2, true: 1}[late])
			}
			if n := cap(v.follow.fetches["1-0"].missed); n != 0 {
				t.Errorf("room for %d changes is left over", n)
			}
		})
	}
}

// Whatever is wrong with a list, its keys are asked about, and the log says so once.
func TestList_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logged(t)
		i := quietIssuer(t)
		i.feed.set(func() { i.feed.bits["1-1"] = make([]byte, listBytes) })
		v, _ := i.wired(t)
		defer v.Close()
		token := i.held(t, 9, nil)
		signed := func(key any, kid, typ string, edit object) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, signNow(key, kid, typ, edited(object{"iss": i.URL, "sub": i.URL + "/status/1-0", "iat": 1, "exp": time.Now().Unix() + 3600,
					"status_list": object{"bits": 2, "lst": pack(make([]byte, listBytes))}, "epoch": 1, "seq": 1 << 40}, edit)))
			}
		}
		with := func(edit object) http.HandlerFunc { return signed(i.accessKey, "access-1", "statuslist+jwt", edit) }
		packed := func(bits int, raw []byte) http.HandlerFunc {
			return with(object{"status_list": object{"bits": bits, "lst": pack(raw)}})
		}
		for name, answer := range map[string]http.HandlerFunc{
			"typ":             signed(i.accessKey, "access-1", "JWT", nil),
			"an access token": signed(i.accessKey, "access-1", "at+jwt", nil),
			"application/typ": signed(i.accessKey, "access-1", "application/statuslist+jwt", nil),
			"other key":       signed(newKey(t), "access-1", "statuslist+jwt", nil),
			"unknown key":     signed(i.accessKey, "access-9", "statuslist+jwt", nil),
			"the lasting key": signed(i.lastingKey, "lasting-1", "statuslist+jwt", nil),
			"sub":             with(object{"sub": i.URL + "/status/1-1"}), "no sub": with(object{"sub": nil}),
			"iss": with(object{"iss": "https://evil.example"}), "no iss": with(object{"iss": nil}),
			"expired": with(object{"exp": time.Now().Unix()}), "no exp": with(object{"exp": nil}),
			"no epoch": with(object{"epoch": nil}), "no seq": with(object{"seq": nil}), "seq text": with(object{"seq": "1"}),
			"no list": with(object{"status_list": nil}), "one bit": packed(1, make([]byte, listBytes)),
			"shrunk": packed(2, make([]byte, listBytes-1)), "grown": packed(2, make([]byte, listBytes+1)), "a bomb": packed(2, make([]byte, 64<<20)),
			"not zlib":   with(object{"status_list": object{"bits": 2, "lst": "AAAA"}}),
			"not base64": with(object{"status_list": object{"bits": 2, "lst": "*"}}),
			"empty":      says(""), "a page": says("<html>"), "500": status(500), "503": status(503), "404": status(404), "redirect": status(302),
			"too long": says(strings.Repeat("a", maxBody+1)),
		} {
			i.feed.set(func() { i.feed.failList = answer })
			log.Reset()
			i.asked.Store(0)
			for range 5 {
				check(t, v, token, 0, "")
				settled(time.Second)
			}
			if n := i.asked.Load(); n != 5 || v.Counters().Lists != 0 {
				t.Errorf("%s: asked %d times about 5 checks, %d lists", name, n, v.Counters().Lists)
			}
			if n := strings.Count(log.String(), "a status list cannot be used"); n != 1 && name != "503" {
				t.Errorf("%s: %d lines\n%s", name, n, log)
			}
			v.badLists.Store(false)
		}
		i.feed.set(func() { i.feed.failList = nil })
		i.loaded(t, v, token)
	})
}

// Lists that are not there cost a request a second each, and a bounded number of them anything at all.
func TestList_bounded(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		i.feed.lists.Store(0)
		none := i.held(t, 9, object{"status": object{"status_list": object{"idx": 1, "uri": i.URL + "/status/1-7"}}})
		i.set(func() { delete(i.table, none) })
		for range 100 {
			check(t, v, none, BadToken, "not_active")
			settled(10 * time.Millisecond)
		}
		if n := i.feed.lists.Load(); n != 1 && n != 2 {
			t.Errorf("a list that is not there was asked for %d times in a second", n)
		}
		i.feed.lists.Store(0)
		for n := range 2 * maxLists {
			v.follow.want(fmt.Sprint("7-", n))
			if n%maxFetches == 0 {
				synctest.Wait()
			}
		}
		settled(time.Second)
		if n := i.feed.lists.Load(); n < maxLists-2 || n > maxLists {
			t.Errorf("%d lists were asked for", n)
		}
	})
}

// Of many lists that are wanted at once a few are on their way at a time, and all come.
func TestList_aFewAtATime(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		const all = 3 * maxFetches
		for n := range all {
			i.feed.set(func() { i.feed.bits[fmt.Sprint("2-", n)] = make([]byte, listBytes) })
		}
		for round := range 3 {
			for n := range all {
				v.follow.want(fmt.Sprint("2-", n))
			}
			synctest.Wait()
			if n := v.Counters().Lists; n != 1+(round+1)*maxFetches {
				t.Errorf("round %d: %d lists", round, n)
			}
		}
	})
}

// However many lists are wanted, and however long they take, the next poll waits for none of them.
func TestList_pollsDoNotWait(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	i.feed.set(func() { i.feed.failList = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } })
	const held = 200 * time.Millisecond
	polls := i.feed.polls.Load()
	for n := range 100 {
		v.follow.want(fmt.Sprint("1-", n))
	}
	for began := time.Now(); i.feed.lists.Load() < maxFetches || time.Duration(i.feed.polls.Load()-polls)*held <= leaseLife+held; passes(time.Millisecond) {
		if c := v.Counters(); time.Since(began) > time.Minute {
			t.Fatalf("the polls do not go on, or the lists are not asked for: %+v", c)
		}
	}
	if n := i.feed.lists.Load(); n != maxFetches {
		t.Errorf("%d lists are on their way", n)
	}
}

// The values of a list are those that were packed, and a list takes memory only where a key is not valid.
func TestList_memory(t *testing.T) {
	bits := make([]byte, listBytes)
	r := rand.New(rand.NewSource(1))
	r.Read(bits)
	l := newList(1, bits)
	for i := range int32(listEntries) {
		if want := value(bits[i/4] >> (i % 4 * 2) & 3); l.value(i) != want {
			t.Fatalf("entry %d is %d, want %d", i, l.value(i), want)
		}
	}
	for range 100_000 {
		i, v := r.Int31n(listEntries), value(r.Intn(4))
		if l.set(i, v); l.value(i) != v {
			t.Fatalf("entry %d is not %d", i, v)
		}
	}
	var before, after runtime.MemStats
	taken := func(make func() *list) uint64 {
		least := uint64(math.MaxUint64)
		for range 5 { // what is left of other tests may take some meanwhile
			runtime.ReadMemStats(&before)
			l := make()
			runtime.ReadMemStats(&after)
			runtime.KeepAlive(l)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		return least
	}
	empty := taken(func() *list { return newList(1, make([]byte, listBytes)) }) - listBytes
	full := taken(func() *list { return newList(1, bits) })
	const lists8 = (100_000_000 + listEntries - 1) / listEntries
	t.Logf("a list of 2^20 keys: %d bytes where all are valid, %d at most; 10^8 keys are %d lists, %d MB at most", empty, full, lists8, lists8*full>>20)
	if full >= 1_000_000 || empty > 8<<10 || unsafe.Sizeof(chunk{}) != 1<<10 || lists8*full > 26<<20 {
		t.Error("that is more than was promised")
	}
}
