package main

import "time"

// The engines.
const (
	sqlite   = "SQLite"
	postgres = "PostgreSQL"
)

// faults lists every fault that is tried.
func faults() []fault {
	return []fault{
		{name: "kill -9 of the server", engine: sqlite, within: time.Second, lay: layFile},
		{name: "move to PostgreSQL", engine: sqlite, within: 5 * time.Second, lay: layGrowth},
		{name: "full disk", engine: sqlite, within: time.Second, lay: layFileOnDisk},
		{name: "full disk", engine: postgres, within: time.Second, lay: layServerOnDisk},
		{name: "kill -9 of the server", engine: postgres, within: time.Second, lay: layServer(serverKilled)},
		{name: "kill -9 of the database", engine: postgres, within: time.Second, lay: layServer(databaseKilled)},
		{name: "frozen database", engine: postgres, within: time.Second, lay: layServer(databaseFrozen)},
		{name: "silent network", engine: postgres, within: time.Second, lay: layNetwork},
		{name: "one-way loss", engine: postgres, within: time.Second, lay: layProxy},
		{name: "kill -9 of the leader", engine: postgres, within: 2 * time.Second, nodes: 2, lay: layCluster(false)},
		{name: "frozen leader", engine: postgres, within: 2 * time.Second, nodes: 2, lay: layCluster(true), slow: true},
	}
}
