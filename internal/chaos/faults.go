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
		{Name: "full disk", Engine: sqlite, Within: time.Second, lay: layFileOnDisk},
		{Name: "full disk", Engine: postgres, Within: time.Second, lay: layServerOnDisk},
		{Name: "kill -9 of the server", Engine: postgres, Within: time.Second, lay: layServer(serverKilled)},
		{Name: "kill -9 of the database", Engine: postgres, Within: time.Second, lay: layServer(databaseKilled)},
		{Name: "frozen database", Engine: postgres, Within: time.Second, lay: layServer(databaseFrozen)},
		{Name: "silent network", Engine: postgres, Within: time.Second, lay: layNetwork},
		{Name: "one-way loss", Engine: postgres, Within: time.Second, lay: layProxy},
	}
}
