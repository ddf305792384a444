package chaos

import "time"

// The engines.
const (
	sqlite   = "SQLite"
	postgres = "PostgreSQL"
)

// Faults lists every fault that is tried.
func Faults() []Fault {
	return []Fault{
		{Name: "kill -9 of the server", Engine: sqlite, Within: time.Second, lay: layFile},
	}
}
