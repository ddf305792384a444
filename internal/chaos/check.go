package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"
)

// check asks for everything that was acknowledged, by the same doors through which
// it was given, and then looks into the database. Nothing is broken by now, so every
// question must be answered.
func (l *load) check(ctx context.Context) error {
	var group sync.WaitGroup
	for _, w := range l.workers {
		group.Go(func() { w.audit(ctx) })
	}
	group.Go(func() { l.keeper.audit(ctx) })
	group.Wait()
	for _, n := range l.site.nodes {
		lines, err := n.complaints()
		if err != nil {
			return err
		}
		for _, line := range lines {
			l.site.ledger.violation("node %d: %s", n.number, line)
		}
	}
	return l.site.inspect(ctx)
}

func (w *worker) audit(ctx context.Context) {
	w.patient = true
	if w.who != nil {
		if w.state == alive {
			w.look(ctx)
		} else {
			w.signIn(ctx)
		}
	}
	for _, c := range w.codes {
		w.redeemed(c, w.answered(w.redeem(ctx, c)))
	}
	w.codes = nil
	for _, k := range w.keys {
		first := w.answered(w.introspect(ctx, k))
		if k.refresh != "" && k.expected() == alive && k.lost.IsZero() {
			w.rotate(ctx, k)
		}
		if k.expected() == unsure && first.outcome == acknowledged { // it was active: that is how it must stay
			k.state, k.grant.state = alive, alive
		}
	}
	for _, k := range w.keys {
		w.answered(w.introspect(ctx, k))
	}
}

// answered demands that a request got an answer.
func (w *worker) answered(r reply) reply {
	if r.outcome == unavailable || r.outcome == unknown {
		w.violation("nothing is broken any more, and a request got no answer: %d %s", r.status, r.body)
	}
	return r
}

func (k *keeper) audit(ctx context.Context) {
	k.patient = true
	if _, ok := k.list(ctx); !ok {
		k.site.ledger.violation("nothing is broken any more, and a command fails")
	}
	for _, s := range k.secrets {
		k.probe(ctx, s)
	}
}

// facts are counts that a database in which every event is whole has at zero.
var facts = map[string]string{
	"families that no redeemed code names: a code was redeemed twice": `SELECT COUNT(*) FROM families f
		WHERE NOT EXISTS (SELECT 1 FROM authorization_codes c WHERE c.redeemed_family = f.id)`,
	"redeemed codes without their family": `SELECT COUNT(*) FROM authorization_codes c
		WHERE c.redeemed_family IS NOT NULL AND NOT EXISTS (SELECT 1 FROM families f WHERE f.id = c.redeemed_family)`,
	"families and notes of redemptions that differ in number": `SELECT (SELECT COUNT(*) FROM families) - (SELECT COUNT(*) FROM events WHERE kind = 'code.redeemed')`,
	"families alive under a grant that ended": `SELECT COUNT(*) FROM families f JOIN grants g ON g.id = f.grant_id
		WHERE g.status = 'revoked' AND f.status <> 'invalid'`,
	"families without a grant": `SELECT COUNT(*) FROM families f WHERE NOT EXISTS (SELECT 1 FROM grants g WHERE g.id = f.grant_id)`,
	"grants without their stores": `SELECT COUNT(*) FROM grants g JOIN users u ON u.id = g.user_id
		WHERE u.kind = 'person' AND g.status <> 'revoked' AND NOT g.all_stores AND NOT EXISTS (SELECT 1 FROM grant_stores s WHERE s.grant_id = g.id)`,
}

// inspect looks for halves of events.
func (s *site) inspect(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	driver, name := "sqlite", "file:"+s.database+"?_pragma=busy_timeout(10000)&_pragma=query_only(1)"
	if strings.HasPrefix(s.database, "postgres://") {
		driver, name = "pgx", s.database
	}
	db, err := sql.Open(driver, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for what, query := range facts {
		var n int
		if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil {
			return fmt.Errorf("looking for %s: %w", what, err)
		}
		if n != 0 {
			s.ledger.violation("%d %s", n, what)
		}
	}
	if driver == "sqlite" {
		var said string
		if err := db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&said); err != nil {
			return err
		}
		if said != "ok" {
			s.ledger.violation("the file is damaged: %s", said)
		}
	}
	return nil
}
