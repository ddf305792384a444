package storagetest

import (
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// Opened is a database that was just made and migrated, and holds nothing.
type Opened struct {
	Storage oauth.Storage
	// DSN names the same database: a postgres:// URL or a SQLite file. The suite
	// reads through it what the contract does not show: that a lost event has left
	// no row of any table changed.
	DSN string
	// Pooled says that Storage goes through PgBouncer, past which DSN leads.
	Pooled bool
}

// OAuth proves every promise of [oauth.Storage]. open is called once for each
// group of tests.
func OAuth(t *testing.T, open func(t *testing.T) Opened) {
	for _, group := range []struct {
		name string
		run  func(*world)
	}{
		{"Decisions", decisions},
		{"Grants", grants},
		{"Codes", codes},
		{"Families", families},
		{"Refresh", refresh},
		{"Clients", clients},
		{"Guesses", guesses},
		{"People", customers},
		{"APIs", apis},
		{"Events", events},
		{"Status", status},
		{"Lists", lists},
		{"Sweep", sweep},
		{"Lease", lease},
		{"Ended", ended},
		{"Text", text},
		{"At once", atOnce},
		{"Races", races},
		{"Ends", ends},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel() // each has a database of its own, and waits for its disk
			w := newWorld(t, open(t))
			switch group.name {
			case "Guesses", "Lists", "Sweep", "Lease", "Ended": // they ask for all that there is, and remove what is over
			default:
				w.beside()
			}
			group.run(w)
		})
	}
}
