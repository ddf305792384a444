package oauth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

// backup writes a backup of a world.
func (w *world) backup() string {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "backup")
	_, err := w.db.Backup(context.Background(), file, sqlstore.Archive{Made: w.Now()}, nil)
	w.must(err)
	return file
}

// export writes the whole log of a world.
func (w *world) export() []byte {
	w.t.Helper()
	var log bytes.Buffer
	end, err := oauth.ReadLog(&log, nil)
	w.must(err)
	x, err := w.ExportAfter(context.Background(), command, end)
	w.must(err)
	_, err = x.Next(context.Background(), &log, true)
	w.must(err)
	return log.Bytes()
}

// restore makes a world of a backup, as a log says.
func (w *world) restore(file string, log []byte) (*world, *oauth.Recovered) {
	w.t.Helper()
	ctx := context.Background()
	at := filepath.Join(w.t.TempDir(), "restored.db")
	r, err := sqlstore.Restore(ctx, file, at, false)
	w.must(err)
	rec, err := oauth.Recover(ctx, r.Store, w.Now(), newRand("recover"), r.Made, bytes.NewReader(log))
	w.must(err)
	const epoch = 100 // long over, so Finish need not wait for its end
	e, err := oauth.NewRestored(w.Now(), newRand("restored"), oauth.Restored{Epoch: epoch, FromEpoch: r.Epoch, FromSeq: r.Seq, Made: r.Made})
	w.must(err)
	_, err = r.Finish(ctx, epoch, rec.EndedAll, e, nil)
	w.must(err)
	back := &world{t: w.t, clock: w.clock, house: w.house}
	back.open(at)
	return back, rec
}

// Whatever ends or narrows something after a backup, its replay from the log makes
// of the restored database what it made of the first one (docs/operating.md, Backup and
// restore).
func TestRecover_EveryEnding(t *testing.T) {
	ctx := context.Background()
	type held struct {
		shop, books, pocket, bobs *oauth.TokenResponse
		code, second              string
	}
	// state is what people and apps can see of it.
	state := func(w *world, h held) []string {
		w.must(w.Follow(ctx))
		w.t.Helper()
		var s []string
		for _, k := range []*oauth.TokenResponse{h.shop, h.books, h.pocket, h.bobs} {
			s = append(s, w.rights(k.AccessToken))
		}
		for _, a := range []app{w.exchange, w.standard, w.other} {
			c, err := w.Client(ctx, a.id)
			if err != nil {
				s = append(s, err.Error())
				continue
			}
			s = append(s, fmt.Sprint(c.Name, c.Status, c.Redirects, c.Scopes, c.Settings), fmt.Sprint("knows the secret: ", w.Revoke(ctx, a.auth(), "unknown")))
		}
		return append(s, fmt.Sprint("knows the second: ", w.Revoke(ctx, oauth.ClientAuth{ID: w.other.id, Secret: oauth.Secret(h.second)}, "unknown")))
	}
	for name, act := range map[string]func(w *world, h held) error{
		"grant.revoked":   func(w *world, h held) error { return w.RevokeGrant(ctx, alice, h.shop.GrantID) },
		"grant.suspended": func(w *world, h held) error { return w.SuspendGrant(ctx, command, h.shop.GrantID) },
		"grant.edited, a store taken out": func(w *world, h held) error {
			_, err := w.RemoveStore(ctx, alice, h.shop.GrantID, "s2")
			return err
		},
		"grant.edited, at the consent page": func(w *world, h held) error {
			_, err := w.decide("alice", w.ask(w.exchange), "s2", "s3")
			return err
		},
		"family.revoked": func(w *world, h held) error { return w.Revoke(ctx, w.standard.auth(), h.books.AccessToken.Reveal()) },
		"code.replayed": func(w *world, h held) error {
			if _, err := w.redeem(w.public, h.code); err == nil {
				return errors.New("a code was redeemed twice")
			}
			return nil
		},
		"refresh.replayed": func(w *world, h held) error {
			w.clock.advance(time.Minute)
			if _, err := w.Token(ctx, refresh(w.public, h.pocket.RefreshToken.Reveal())); err == nil {
				return errors.New("a spent refresh token was taken")
			}
			return nil
		},
		"client.suspended": func(w *world, h held) error { return w.SuspendClient(ctx, command, w.exchange.id) },
		"client.deleted":   func(w *world, h held) error { return w.DeleteClient(ctx, command, w.exchange.id, w.exchange.Name) },
		"client.updated": func(w *world, h held) error {
			f := form("Exporter Two", oauth.Exchange, oauth.Confidential)
			f.Redirects, f.Scopes = f.Redirects[:1], f.Scopes[:2]
			_, err := w.UpdateClient(ctx, command, w.exchange.id, 1, f)
			return err
		},
		"secret.revoked": func(w *world, h held) error {
			return w.RevokeSecret(ctx, command, w.other.id, w.other.secret.Reveal()[68:])
		},
		"secret.revoked, the only one that the backup has": func(w *world, h held) error {
			if _, err := w.AddSecret(ctx, command, w.standard.id); err != nil {
				return err
			}
			return w.RevokeSecret(ctx, command, w.standard.id, w.standard.secret.Reveal()[68:])
		},
		"user.suspended": func(w *world, h held) error { return w.SuspendUser(ctx, command, "alice") },
		"membership.set": func(w *world, h held) error {
			return w.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: "s1", Scopes: oauth.Scopes("stores.view"), MayDelegate: true})
		},
		"membership.dropped": func(w *world, h held) error { return w.DropMembership(ctx, command, "alice", "s1") },
		"store.removed": func(w *world, h held) error {
			return w.PutStore(ctx, command, oauth.Store{ID: "s1", Name: "Store s1", Status: oauth.Deleted})
		},
		"key.cut":        func(w *world, h held) error { return w.CutKey(ctx, command, kidOf(w.t, h.shop.AccessToken)) },
		"everything.cut": func(w *world, h held) error { return w.CutEverything(ctx, command) },
		"all at once, and what was undone": func(w *world, h held) error {
			return errors.Join(w.SuspendGrant(ctx, command, h.bobs.GrantID), w.ResumeGrant(ctx, command, h.bobs.GrantID),
				w.SuspendUser(ctx, command, "alice"), w.ResumeUser(ctx, command, "alice"),
				w.SuspendClient(ctx, command, w.exchange.id), w.ResumeClient(ctx, command, w.exchange.id),
				w.RevokeGrant(ctx, alice, h.shop.GrantID), w.PutStore(ctx, command, oauth.Store{ID: "b1", Name: "Renamed"}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := held{shop: w.connect(w.exchange, "alice", "s1", "s2"), books: w.connect(w.standard, "alice", "s1"), bobs: w.connect(w.exchange, "bob", "b1", "s1")}
			h.code = w.code(w.public, "alice", "s1")
			var err error
			h.pocket, err = w.redeem(w.public, h.code)
			w.must(err)
			next, err := w.Token(ctx, refresh(w.public, h.pocket.RefreshToken.Reveal()))
			w.must(err)
			_, err = w.Token(ctx, refresh(w.public, next.RefreshToken.Reveal()))
			w.must(err)
			second, err := w.AddSecret(ctx, command, w.other.id)
			w.must(err)
			h.second = second.Reveal()
			before := state(w, h)
			file := w.backup()
			w.clock.advance(5 * time.Second)
			w.must(act(w, h))
			after := state(w, h)
			if cmp.Equal(before, after) {
				t.Fatalf("nothing ended: %q", after)
			}
			back, rec := w.restore(file, w.export())
			if d := cmp.Diff(after, state(back, h)); d != "" || rec.Changed == 0 {
				t.Errorf("%d changed; restored (-as it was +as it is):\n%s", rec.Changed, d)
			}
			// And the log of a restored database tells the next restore the same.
			again, _ := w.restore(file, back.export())
			if d := cmp.Diff(after, state(again, h)); d != "" {
				t.Errorf("restored again (-as it was +as it is):\n%s", d)
			}
		})
	}
}

// A secret of the API that was revoked after the backup stays revoked, also if its
// successor came after the backup as well: then somebody must make another.
func TestRecover_AnAPISecret(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1").AccessToken
	file := w.backup()
	w.clock.advance(5 * time.Second)
	_, _, err := w.AddAPISecret(ctx, command)
	w.must(err)
	w.must(w.RevokeAPISecret(ctx, command, w.api.Secret.Reveal()[68:]))
	log := w.export()
	for range 2 { // and the log of a restored database tells the next restore the same
		back, _ := w.restore(file, log)
		_, err = back.introspection(key.Reveal())
		wantReason(t, err, oauth.SecretWrong)
		apis, err := back.APIs(ctx, command)
		w.must(err)
		if s := apis[0].Secrets; len(s) != 1 || s[0].Last4 != "none" {
			t.Errorf("it has %+v", s)
		}
		back.api.ID, back.api.Secret, err = back.AddAPISecret(ctx, command)
		w.must(err)
		if back.rights(key) == "inactive" {
			t.Error("a new one does not work")
		}
		log = back.export()
	}
}

// A refresh token that was replaced after the backup stands there unspent. Nobody
// honest has it any more, so the log ends its family.
func TestRecover_ASpentRefreshToken(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	spent, kept := w.connect(w.public, "alice", "s1"), w.connect(w.public, "bob", "b1")
	if _, err := w.Token(ctx, refresh(w.public, kept.RefreshToken.Reveal())); err != nil { // before the backup
		t.Fatal(err)
	}
	fixed := w.connect(w.direct, "")
	file := w.backup()
	w.clock.advance(5 * time.Second)
	for _, r := range []oauth.TokenRequest{refresh(w.public, spent.RefreshToken.Reveal()), refresh(w.direct, fixed.RefreshToken.Reveal())} {
		if _, err := w.Token(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	back, _ := w.restore(file, w.export())
	_, err := back.Token(ctx, refresh(w.public, spent.RefreshToken.Reveal()))
	wantReason(t, err, oauth.RefreshUnknown)
	if got := back.rights(spent.AccessToken); got != "inactive" {
		t.Errorf("its key: %s", got)
	}
	if got := back.rights(kept.AccessToken); got == "inactive" {
		t.Error("a family that was refreshed before the backup has ended")
	}
	if _, err := back.Token(ctx, refresh(w.direct, fixed.RefreshToken.Reveal())); err != nil {
		t.Errorf("a token that does not rotate: %v", err)
	}
}

// A chain that ended after the backup, because the code that began it was replayed, is
// over in the database that was restored; the guest whom it continued goes on.
func TestRecover_AChainThatEnded(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	guest := w.connect(w.rotating, "")
	d, err := w.authorizeDirect(w.query(w.rotating), guest.AccessToken.Reveal())
	w.must(err)
	resp, err := w.redeem(w.rotating, d.Code.Reveal())
	w.must(err)
	file := w.backup()
	w.clock.advance(5 * time.Second)
	_, err = w.redeem(w.rotating, d.Code.Reveal())
	wantReason(t, err, oauth.CodeUsed)
	back, rec := w.restore(file, w.export())
	if rec.Changed != 1 {
		t.Errorf("%d changed", rec.Changed)
	}
	_, err = back.Token(ctx, refresh(w.rotating, resp.RefreshToken.Reveal()))
	wantReason(t, err, oauth.RefreshUnknown)
	_, err = back.Token(ctx, refresh(w.rotating, guest.RefreshToken.Reveal()))
	w.must(err)
}

// A key whose every use is asked about, because what it may do is not printed in it,
// moves the feed when it is issued. A log that tells of one is replayed like any other,
// and what came after it as well; the key is as dead as all that were issued since.
func TestRecover_AKeyForAllStores(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	kept, before, after := w.connect(w.exchange, "alice", "s1"), w.connect(w.exchange, "bob", "b1"), w.connect(w.standard, "bob", "b1")
	file := w.backup()
	w.clock.advance(5 * time.Second)
	w.must(w.RevokeGrant(ctx, bob, before.GrantID))
	back, err := w.Decide(ctx, "alice", w.ask(w.other), oauth.Decision{Allow: true, AllStores: true})
	w.must(err)
	late, err := w.redeem(w.other, param(t, back, "code"))
	w.must(err)
	if w.rights(late.AccessToken) == "inactive" {
		t.Fatal("the key does not work")
	}
	w.must(w.Revoke(ctx, w.standard.auth(), after.AccessToken.Reveal()))
	again, rec := w.restore(file, w.export())
	w.must(again.Follow(ctx))
	if rec.Changed != 2 {
		t.Errorf("%d changed", rec.Changed)
	}
	for name, k := range map[string]*oauth.TokenResponse{"kept": kept, "revoked before": before, "for all stores": late, "revoked after": after} {
		if alive := again.rights(k.AccessToken) != "inactive"; alive != (k == kept) {
			t.Errorf("%s: alive is %v", name, alive)
		}
	}
}

// Every kind of the feed is either replayed or known to end nothing: those that are
// marked, here, and whatever any test puts into the feed of its world, in its end.
func TestRecover_KnowsEveryKind(t *testing.T) {
	source, err := os.ReadFile("event.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`Kind = "([a-z_.]+)" +// feed`).FindAllSubmatch(source, -1)
	if len(kinds) < 20 {
		t.Fatalf("%d kinds found", len(kinds))
	}
	for _, k := range kinds {
		if !oauth.Replayed(oauth.Kind(k[1])) {
			t.Errorf("%s is not in replays", k[1])
		}
	}
	w := newWorld(t)
	_, err = oauth.Replay(context.Background(), w.db, w.Now(), newRand("x"), oauth.Event{ID: "ev_x", Seq: 7, Kind: "of.tomorrow"})
	if !errors.Is(err, oauth.ErrUnknownKind) || !strings.Contains(err.Error(), "of.tomorrow") {
		t.Errorf("an unknown kind: %v", err)
	}
}

// A consent whose code was out when the backup was made leaves nothing behind.
func TestRestore_CodesThatWereOutAreSwept(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	code := w.code(w.exchange, "alice", "s1")
	back, _ := w.restore(w.backup(), w.export())
	if _, err := back.redeem(back.exchange, code); oauth.ReasonOf(err) != oauth.CodeExpired {
		t.Errorf("the code: %v", err)
	}
	pending := func() (n int) {
		list, err := back.db.Grants(ctx, oauth.GrantFilter{Page: oauth.Page{Limit: 100}})
		w.must(err)
		for _, g := range list {
			if g.Status == oauth.Pending {
				n++
			}
		}
		return n
	}
	if n := pending(); n != 1 {
		t.Fatalf("%d grants wait for their code", n)
	}
	_, err := back.db.Sweep(ctx, back.Now(), oauth.EventsKept, 100)
	w.must(err)
	if n := pending(); n != 0 {
		t.Errorf("%d grants wait for a code that is gone", n)
	}
}

// The log of another installation, whose numbers fit, says nothing of this one.
func TestRecover_AnotherDatabasesLog(t *testing.T) {
	ctx := context.Background()
	w, other := newWorld(t), newWorld(t)
	w.must(w.SuspendUser(ctx, command, "alice"))
	file := w.backup()
	other.clock.advance(time.Second)
	for _, user := range []string{"alice", "bob"} {
		other.must(other.SuspendUser(ctx, command, user))
	}
	r, err := sqlstore.Restore(ctx, file, filepath.Join(t.TempDir(), "restored.db"), false)
	w.must(err)
	defer r.Abandon()
	if _, err := oauth.Recover(ctx, r.Store, w.Now(), newRand("recover"), r.Made, bytes.NewReader(other.export())); !errors.Is(err, oauth.ErrForeignLog) {
		t.Errorf("error %v", err)
	}
}

// A database that was once restored is in an epoch that is later than those of any log.
// That of another installation is nevertheless none of its: not to go on with, and not
// to restore by, whatever of it there is. One that does not say whose it is serves a
// restore, and is gone on with where its last event is in the database.
func TestExport_TheLogOfAnotherInstallation(t *testing.T) {
	ctx := context.Background()
	w, other := newInstallation(t), newInstallation(t)
	short, old := w.export(), w.backup()
	w.clock.advance(time.Second)
	w.must(w.SuspendUser(ctx, command, "bob")) // which the restore loses
	log, foreign := w.export(), other.export()
	w, _ = w.restore(old, short)
	file := w.backup()
	w.clock.advance(time.Second)
	w.must(w.SuspendUser(ctx, command, "alice"))
	begin := func(log []byte) (*oauth.Export, error) {
		end, err := oauth.ReadLog(bytes.NewReader(log), nil)
		w.must(err)
		return w.ExportAfter(ctx, command, end)
	}
	recover := func(log []byte) (*oauth.Recovered, error) {
		t.Helper()
		r, err := sqlstore.Restore(ctx, file, filepath.Join(t.TempDir(), "restored.db"), false)
		w.must(err)
		defer r.Abandon()
		return oauth.Recover(ctx, r.Store, w.Now(), newRand("recover"), r.Made, bytes.NewReader(log))
	}
	goOn := func(log []byte) []byte {
		t.Helper()
		x, err := begin(log)
		w.must(err)
		whole := bytes.NewBuffer(bytes.Clone(log))
		_, err = x.Next(ctx, whole, true)
		w.must(err)
		return whole.Bytes()
	}
	lines := bytes.SplitAfter(foreign, []byte("\n"))
	for what, log := range map[string][]byte{"whole": foreign, "a mark": lines[len(lines)-2], "cut off before its mark": bytes.Join(lines[:len(lines)-2], nil)} {
		if _, err := begin(log); !errors.Is(err, oauth.ErrForeignLog) {
			t.Errorf("%s: to go on with: %v", what, err)
		}
		if _, err := recover(append(bytes.Clone(log), goOn(nil)...)); !errors.Is(err, oauth.ErrForeignLog) {
			t.Errorf("%s: to restore by: %v", what, err)
		}
	}
	if rec, err := recover(goOn(log)); err != nil || rec.Changed != 1 {
		t.Errorf("its own over a restore: %+v, %v", rec, err)
	}

	unnamed := func(log []byte) []byte { return regexp.MustCompile(`"installation":"[^"]*",?`).ReplaceAll(log, nil) }
	if _, err := begin(unnamed(log)); err == nil || !strings.Contains(err.Error(), "begin a new file") {
		t.Errorf("one that does not say whose it is, over a restore: %v", err)
	}
	now := unnamed(goOn(log))
	if rec, err := recover(now); err != nil || rec.Changed != 1 {
		t.Errorf("one that does not say whose it is, to restore by: %+v, %v", rec, err)
	}
	if got := goOn(now)[len(now):]; !bytes.Contains(got, []byte(`"installation":"`)) || bytes.Contains(got, []byte(`"id"`)) {
		t.Errorf("one that does not say whose it is goes on with %s", got)
	}
}

// When the database has lost events, a running export writes nothing over the loss,
// however many others have got their numbers meanwhile, nor does one that is begun
// then; both go on once a new epoch has begun, and the log restores what is.
func TestExport_TheDatabaseHasLostEvents(t *testing.T) {
	ctx := context.Background()
	const lost = 3
	for others := range lost + 2 {
		t.Run(fmt.Sprint(others, " others"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			kept := w.connect(w.exchange, "alice", "s1")
			w.must(w.SuspendClient(ctx, command, w.public.id))
			for range lost {
				w.connect(w.standard, "bob", "b1")
			}
			var log bytes.Buffer
			begin := func() (*oauth.Export, error) {
				end, err := oauth.ReadLog(bytes.NewReader(log.Bytes()), nil)
				w.must(err)
				return w.ExportAfter(ctx, command, end)
			}
			running, err := begin()
			w.must(err)
			for range 2 {
				_, err = running.Next(ctx, &log, true)
				w.must(err)
			}
			before := log.Len()

			raw := w.raw()
			seq, epoch, err := w.db.Head(ctx)
			w.must(err)
			exec(t, raw, "UPDATE heads SET seq = seq - ? WHERE name = 'feed'", lost)
			_, err = raw.Exec("DELETE FROM events WHERE seq > ?", seq-lost)
			w.must(err)
			for i := range others {
				e := oauth.Event{ID: fmt.Sprint("ev_other", i), At: w.Now(), Kind: oauth.EventUserResumed, Actor: "command", UserID: "carol"}
				exec(t, raw, "UPDATE heads SET seq = seq + 1 WHERE name = 'feed'")
				exec(t, raw, "INSERT INTO events (id, seq, at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload) VALUES (?, ?, ?, ?, ?, '', ?, '', '', '', '')",
					e.ID, seq-lost+int64(i)+1, e.At.UnixMicro(), e.Kind, e.Actor, e.UserID)
			}
			w.must(w.db.NoteEvent(ctx, oauth.Event{ID: "ev_outside", At: w.Now(), Kind: oauth.EventTokenRefreshed, Actor: "command"}))
			for _, late := range []bool{false, true} {
				if n, err := running.Next(ctx, &log, late); !errors.Is(err, oauth.ErrBehind) || n != 0 || log.Len() != before {
					t.Fatalf("late %v: %d events, %v: %s", late, n, err, log.Bytes()[before:])
				}
			}
			if _, err := begin(); !errors.Is(err, oauth.ErrBehind) || errors.Is(err, oauth.ErrForeignLog) {
				t.Errorf("begun meanwhile: %v", err)
			}

			w.must(w.db.NewEpoch(ctx, 100, func(from, at int64) (oauth.Event, error) {
				return oauth.NewRestored(w.Now(), newRand("epoch"), oauth.Restored{Epoch: 100, FromEpoch: from, FromSeq: at, Made: w.Now()})
			}))
			file := w.backup()
			w.clock.advance(time.Second)
			w.must(w.office(w.db).RevokeGrant(ctx, alice, kept.GrantID))
			anew, err := begin()
			w.must(err)
			var again bytes.Buffer
			n, err := anew.Next(ctx, &again, true)
			w.must(err)
			if m, err := running.Next(ctx, &log, true); err != nil || m != n || n < 3 || !bytes.Equal(log.Bytes()[before:], again.Bytes()) {
				t.Errorf("%d events, %v, and begun anew %d:\n%s\n%s", m, err, n, log.Bytes()[before:], again.Bytes())
			}
			if got := again.String(); !strings.HasPrefix(got, `{"epoch":100,`) || !strings.Contains(got, "ev_outside") || strings.Contains(got, fmt.Sprintf(`"epoch":%d,`, epoch)) {
				t.Errorf("the log goes on with %s", got)
			}
			back, _ := w.restore(file, log.Bytes())
			if got := back.rights(kept.AccessToken); got != "inactive" {
				t.Errorf("what was revoked in the new epoch: %s", got)
			}
		})
	}
}

// Where the log still fits, an epoch that begins takes nothing from it: what came
// before and was not yet exported is, first.
func TestExport_ANewEpochWithoutLoss(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	var log bytes.Buffer
	end, err := oauth.ReadLog(&log, nil)
	w.must(err)
	x, err := w.ExportAfter(ctx, command, end)
	w.must(err)
	_, err = x.Next(ctx, &log, true)
	w.must(err)
	file, stopped := w.backup(), log.Len()
	w.clock.advance(time.Second)
	w.must(w.SuspendUser(ctx, command, "alice"))
	w.must(w.db.NewEpoch(ctx, 100, func(from, at int64) (oauth.Event, error) {
		return oauth.NewRestored(w.Now(), newRand("epoch"), oauth.Restored{Epoch: 100, FromEpoch: from, FromSeq: at, Made: w.Now()})
	}))
	end, err = oauth.ReadLog(bytes.NewReader(log.Bytes()), nil)
	w.must(err)
	anew, err := w.ExportAfter(ctx, command, end)
	w.must(err)
	for name, x := range map[string]*oauth.Export{"running": x, "begun anew": anew} {
		whole := bytes.NewBuffer(bytes.Clone(log.Bytes()[:stopped]))
		if _, err := x.Next(ctx, whole, true); err != nil {
			t.Fatal(err)
		}
		if _, rec := w.restore(file, whole.Bytes()); rec.Changed != 1 {
			t.Errorf("%s: %d changed", name, rec.Changed)
		}
	}
}

// What an export keeps in mind does not grow with the log: not the first one, not one
// that reads the log again, and what is cut off in the middle goes on without a gap and
// without saying anything twice.
func TestExport_MuchIsPast(t *testing.T) {
	ctx := context.Background()
	const events, apart, most = 25_000, 100 * time.Millisecond, 13_000 // ten pages, and two minutes
	w := newWorld(t)
	tx, err := w.raw().Begin()
	w.must(err)
	random := newRand("past")
	for i := range events {
		at := w.Now().Add(time.Duration(i-events) * apart)
		id, err := oauth.NewID("ev_", at, random)
		w.must(err)
		_, err = tx.Exec("INSERT INTO events (id, at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload) VALUES (?, ?, 'code.redeemed', 'command', '', '', '', '', '', '')", id, at.UnixMicro())
		w.must(err)
	}
	w.must(tx.Commit())

	var log bytes.Buffer
	end, err := oauth.ReadLog(&log, nil)
	w.must(err)
	x, err := w.ExportAfter(ctx, command, end)
	w.must(err)
	kept, written := 0, 0
	reached, away := context.WithCancel(ctx)
	to := writes(func(line []byte) (int, error) {
		kept = max(kept, end.Remembered())
		if written++; written == events/3*2 {
			away()
		}
		return log.Write(line)
	})
	n, err := x.Next(reached, to, true)
	if !errors.Is(err, oauth.ErrUnavailable) || n < events/3*2 {
		t.Fatalf("a database that went away after %d events: %v", n, err)
	}
	more, err := x.Next(ctx, to, true)
	w.must(err)
	if n += more; n < events || n != bytes.Count(log.Bytes(), []byte(`"id":`)) || kept > most {
		t.Errorf("the first export of %d events kept %d in mind", n, kept)
	}

	lines := bytes.SplitAfter(log.Bytes(), []byte("\n"))
	for _, at := range []int{events / 3, events / 2, len(lines) - 2} { // before the last mark
		cut := bytes.Join(lines[:at], nil)
		end, err := oauth.ReadLog(bytes.NewReader(cut), nil)
		w.must(err)
		if end.Remembered() > most {
			t.Errorf("who reads %d lines again keeps %d in mind", at, end.Remembered())
		}
		x, err := w.ExportAfter(ctx, command, end)
		w.must(err)
		whole := bytes.NewBuffer(cut)
		_, err = x.Next(ctx, whole, true)
		w.must(err)
		seen := map[string]int{}
		_, err = oauth.ReadLog(whole, func(e oauth.LogEntry) error {
			if e.ID != "" {
				seen[e.ID]++
			}
			return nil
		})
		w.must(err)
		if len(seen) != n {
			t.Errorf("after %d lines: %d events, not %d", at, len(seen), n)
		}
		for id, times := range seen {
			if times > 1 {
				t.Errorf("after %d lines: %s stands there %d times", at, id, times)
				break
			}
		}
	}
}

// What came late while the database could not be reached is in the log all the same.
func TestExport_LateDuringAnOutage(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	var log bytes.Buffer
	end, err := oauth.ReadLog(&log, nil)
	w.must(err)
	x, err := w.ExportAfter(ctx, command, end)
	w.must(err)
	event := func(at time.Time) string {
		id, err := oauth.NewID("ev_", at, newRand(at.String()))
		w.must(err)
		w.must(w.db.NoteEvent(ctx, oauth.Event{ID: id, At: at, Kind: oauth.EventTokenRefreshed, Actor: "command"}))
		return id
	}
	before := w.Now().Add(-5 * time.Second)
	event(w.Now())
	_, err = x.Next(ctx, &log, true)
	w.must(err)
	late := event(before)
	w.clock.advance(10 * time.Minute)
	_, err = x.Next(ctx, &log, true)
	w.must(err)
	if !strings.Contains(log.String(), late) {
		t.Error("an event that was committed after the export had passed its id is in no log")
	}
}

type writes func([]byte) (int, error)

func (f writes) Write(p []byte) (int, error) { return f(p) }

// An export cuts off what follows the last whole line of its log: a file that is
// none, and has no line, must not be taken for one.
func TestReadLog_AFileThatIsNone(t *testing.T) {
	for text, whole := range map[string]bool{"": true, "{\"epo": true, "{\"epoch\":1,\"seq": true, "k1:c2VjcmV0": false, "{\"issuer\":1}": false} {
		if _, err := oauth.ReadLog(strings.NewReader(text), nil); (err == nil) != whole {
			t.Errorf("%q: %v", text, err)
		}
	}
}
