package resource

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Beyond a number of keys asked about at once, requests are refused at once, as Unavailable.
func TestAsker_sheds(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		stuck := make(chan struct{})
		v.asking.do = func(string) (*answer, error) { <-stuck; return nil, unavailable("no_answer", nil) }
		for n := range maxAsking {
			go v.asking.ask(context.Background(), digest{1, byte(n), byte(n >> 8)}, "t")
		}
		heard()
		i.feed.mark(9, ask)
		heard()
		check(t, v, token, Unavailable, "shed")
		if c := v.Counters(); c.Shed != 1 {
			t.Errorf("%+v", c)
		}
		close(stuck)
		heard()
		check(t, v, token, Unavailable, "no_answer")
	})
}

// A question that is not answered within 300 ms is one that cannot be asked.
func TestIntrospect_timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		v, w := i.wired(t)
		defer v.Close()
		token := i.held(t, 9, nil)
		i.loaded(t, v, token)
		w.set(func() { w.silent["auth.example"] = true })
		settled(time.Second)
		began := time.Now()
		check(t, v, token, Unavailable, "no_answer")
		if d := time.Since(began); d != introspectTimeout {
			t.Errorf("waited %v", d)
		}
	})
}

// A request that comes while a question is out waits for that one and for its own, each for as long as a question may
// take: an issuer that is slow, but answers, sheds none of the requests with a busy key.
func TestIntrospect_whileAQuestionIsOut(t *testing.T) {
	for name, c := range map[string]struct {
		issuer func(w *wire)
		reason string
		waited time.Duration
	}{
		"slow":   {func(w *wire) { w.back = 200 * time.Millisecond }, "", 150*time.Millisecond + 200*time.Millisecond},
		"silent": {func(w *wire) { w.silent["auth.example"] = true }, "no_answer", 250*time.Millisecond + introspectTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			i := quietIssuer(t)
			v, w := i.wired(t)
			defer v.Close()
			token := i.lasting(t, nil)
			i.feed.set(func() { i.feed.fail = status(503) })
			settled(time.Second)
			w.set(func() { c.issuer(w) })
			go check(t, v, token, Unavailable, c.reason)
			passes(50 * time.Millisecond)
			if took := elapsed(func() { check(t, v, token, Unavailable, c.reason) }); took != c.waited {
				t.Errorf("%s: waited %v", name, took)
			}
		})
	}
}

// Of several nodes, one that is silent or fails costs no request that the issuer must answer.
func TestIntrospect_nextNode(t *testing.T) {
	for name, fault := range map[string]func(w *wire){
		"silent": func(w *wire) { w.silent["one.example"] = true }, "nobody listens": func(w *wire) { w.refused["one.example"] = true },
		"503": func(w *wire) { w.hosts["one.example"] = status(503) },
	} {
		synctest.Test(t, func(t *testing.T) {
			i := quietIssuer(t)
			v, w := i.wired(t, func(c *Config) { c.Nodes = []string{"https://one.example/", "https://two.example"} })
			defer v.Close()
			w.set(func() { w.hosts["one.example"], w.hosts["two.example"] = i.handler, i.handler })
			token := i.lasting(t, nil)
			settled(time.Second)
			v.follow.node.Store(0)
			w.set(func() { fault(w) })
			check(t, v, token, 0, "")
			_ = name
		})
	}
}
