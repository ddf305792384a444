package sqlstore

import (
	"context"
	"errors"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

// placeOf is the database at dsn as people are told of it.
func placeOf(t *testing.T, dsn string) string {
	t.Helper()
	p, err := openPostgres(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	return p.place()
}

// cutAt cuts a move off before its nth step of a kind.
func cutAt(t *testing.T, file, dsn, step string, nth int) {
	t.Helper()
	p := newParty()
	p.other = newParty()
	p.stopsAt = func(at string) bool {
		if at == step {
			if nth--; nth == 0 {
				p.fails = step
			}
		}
		return false
	}
	err := p.as(t.Context(), file, dsn, func(m *move) error { _, err := m.run(t.Context(), nil); return err })
	if !errors.Is(err, errNever) {
		t.Fatalf("not cut off at %q: %v", step, err)
	}
}

// opens demands that a database opens, or with which words it does not.
func opens(t *testing.T, what, dsn, want string) {
	t.Helper()
	s, err := Open(t.Context(), dsn)
	if err == nil {
		err = s.Close()
	}
	if want != "" {
		refused(t, what, err, want)
	} else if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

const half = "or, if that file is gone or has moved elsewhere, drop the database"

// Only the database that the file was closed for becomes the installation: a half copy in
// another one, wherever it was cut off, is refused from then on, and says what to do.
func TestMove_HalfElsewhere(t *testing.T) {
	batches(t, 40)
	for what, cut := range map[string]struct {
		step   string
		nth    int
		always bool // the others take seconds each
	}{
		"before its first row":          {"copy: BEGIN ", 3, true},
		"in the middle":                 {"copy: BEGIN ", 20, true},
		"when it was compared":          {"copy: ANALYZE api_secrets", 1, false},
		"before it had the file":        {"file: BEGIN IMMEDIATE", 2, true},
		"when the file was closing":     {"file: ALTER TABLE", 5, false},
		"just before the file was shut": {"file: UPDATE copy_state", 1, false},
	} {
		if !cut.always && !storagetest.All() {
			continue
		}
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ctx, file, a, b := t.Context(), installation(t, 1), storagetest.Postgres(t), storagetest.Postgres(t)
			placeA, placeB := placeOf(t, a), placeOf(t, b)
			cutAt(t, file, a, cut.step, cut.nth)
			_, err := Move(ctx, file, b, nil, nil)
			refused(t, "a second target", err, "a copy of "+file+" to "+placeA+" is under way: finish it, or give it up with grantway copy --cancel")
			refused(t, "cancelling a second target", CancelMove(ctx, file, b), "the copy of "+file+" under way goes to "+placeA+": name that database, or none if it is gone")
			opens(t, "the second target", b, "")

			if err := CancelMove(ctx, file, ""); err != nil { // though it is not gone
				t.Fatal(err)
			}
			untouched(t, file)
			// abandoned demands the same words of a copy to A and of its cancelling.
			abandoned := func(why string) {
				t.Helper()
				want := why + ", and " + placeA + " is an abandoned half copy of it: drop that database"
				opens(t, "serve on A", a, half)
				refused(t, "cancelling A", CancelMove(ctx, file, a), want)
				_, err := Move(ctx, file, a, nil, nil)
				if what == "before its first row" && why != file+" has moved to "+placeB {
					want = "is under way"
				}
				refused(t, "A again", err, want)
			}
			cutAt(t, file, b, "copy: BEGIN ", 20)
			abandoned("a copy of " + file + " to " + placeB + " is under way")
			cutAt(t, file, b, "copy: DELETE FROM", 1) // its last step
			abandoned(file + " has moved to " + placeB)
			opens(t, "serve on B", b, half)
			if moved, err := Move(ctx, file, b, nil, nil); err != nil || moved.Place != placeB {
				t.Errorf("B's last step: %+v, %v", moved, err)
			}
			abandoned(file + " has moved to " + placeB)
			if !serves(ctx, b) {
				t.Error("B does not serve")
			}
		})
	}
}

// An address is no proof: what was cut off there may be another database by now.
func TestMove_HalfUnderTheSameAddress(t *testing.T) {
	batches(t, 40)
	ctx, file, a, aside, admin := t.Context(), installation(t, 1), storagetest.Postgres(t), storagetest.Postgres(t), storagetest.Postgres(t)
	swap := func() {
		t.Helper()
		nameA, nameAside := database(t, a), database(t, aside)
		alter(t, admin, "ALTER DATABASE "+nameA+" RENAME TO held", "ALTER DATABASE "+nameAside+" RENAME TO "+nameA, "ALTER DATABASE held RENAME TO "+nameAside)
	}
	cutAt(t, file, a, "copy: BEGIN ", 20)
	swap()
	if _, err := Move(ctx, file, a, nil, nil); err != nil {
		t.Fatal(err)
	}
	place := placeOf(t, a)
	_, err := Move(ctx, file, aside, nil, nil)
	refused(t, "the half copy elsewhere", err, file+" has moved to "+place+", and "+placeOf(t, aside)+" is an abandoned half copy of it: drop that database")
	opens(t, "the half copy elsewhere", aside, half)
	if !serves(ctx, a) {
		t.Error("the whole copy does not serve")
	}
}

func database(t *testing.T, dsn string) string {
	t.Helper()
	config, err := parseURL(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return config.ConnConfig.Database
}

// A copy that was given up, in either way, is begun anew, there or elsewhere, and one that
// was cut off before anything was noted goes on by the same words.
func TestMove_BegunAnew(t *testing.T) {
	batches(t, 40)
	ctx := t.Context()
	for what, again := range map[string]func(t *testing.T, file, a, b string) (to string){
		"cancelled, and elsewhere": func(t *testing.T, file, a, b string) string {
			cutAt(t, file, a, "copy: BEGIN ", 20)
			if err := CancelMove(ctx, file, a); err != nil {
				t.Fatal(err)
			}
			return b
		},
		"cancelled, and there": func(t *testing.T, file, a, b string) string {
			cutAt(t, file, a, "copy: BEGIN ", 20)
			if err := CancelMove(ctx, file, a); err != nil {
				t.Fatal(err)
			}
			return a
		},
		"before the target is marked":     func(t *testing.T, file, a, b string) string { cutAt(t, file, a, "copy: INSERT INTO", 1); return a },
		"the target marked, not the file": func(t *testing.T, file, a, b string) string { cutAt(t, file, a, "file: COMMIT ", 1); return a },
		"the same, and then elsewhere":    func(t *testing.T, file, a, b string) string { cutAt(t, file, a, "file: COMMIT ", 1); return b },
		"both marked, and nobody works yet": func(t *testing.T, file, a, b string) string {
			cutAt(t, file, a, "copy: UPDATE copy_state", 1)
			return a
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			file, a, b := installation(t, 1), storagetest.Postgres(t), storagetest.Postgres(t)
			to := again(t, file, a, b)
			if _, err := Move(ctx, file, to, nil, nil); err != nil {
				t.Fatal(err)
			}
			if !serves(ctx, to) || serves(ctx, file) {
				t.Error("the installation is not there")
			}
		})
	}
}

// A run whose copy is given up beside it says so, also if its target was not named.
func TestMove_GivenUpMeanwhile(t *testing.T) {
	batches(t, 40)
	ctx, file, a, b := t.Context(), installation(t, 1), storagetest.Postgres(t), storagetest.Postgres(t)
	for _, begin := range []func() error{
		func() error { return nil },
		func() error { cutAt(t, file, b, "copy: BEGIN ", 20); return nil }, // the file notes again, and for another
		func() error { _, err := Move(context.WithoutCancel(ctx), file, b, nil, nil); return err },
	} {
		n, want := 0, "this copy of "+file+" was given up meanwhile, with grantway copy --cancel"
		_, err := Move(ctx, file, a, nil, func(Progress) {
			if n++; n == 12 {
				if err := errors.Join(CancelMove(ctx, file, ""), begin()); err != nil {
					t.Error(err)
				}
			}
		})
		if serves(ctx, b) {
			want = "another grantway copy has finished: " + file + " has moved to " + placeOf(t, b)
		}
		refused(t, "the earlier one", err, want)
		CancelMove(ctx, file, b) // refused where none is under way
		a = storagetest.Postgres(t)
	}
}
