package sqlstore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// happened puts n events into a database, of which each 10,000th is a restore and each
// 7,000th another app's, and returns their ids, oldest first.
func happened(t *testing.T, s *Store, n int) (ids, restored, others []string) {
	t.Helper()
	text := strings.ReplaceAll(`INSERT INTO events (id, at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload)
		WITH RECURSIVE n(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < $rows)
		SELECT 'ev_' || CAST(100000000 + i AS TEXT), i, CASE WHEN i % 10000 = 0 THEN 'database.restored' ELSE 'code.redeemed' END, 'command',
			CASE WHEN i % 7000 = 0 THEN 'other' ELSE 'app' END, '', '', '', '', '' FROM n`, "$rows", fmt.Sprint(n))
	if err := s.engine.write(t.Context(), one(do(text))); err != nil {
		t.Fatal(err)
	}
	if _, pg := s.engine.(*postgres); pg { // as its autovacuum does
		if err := s.engine.write(t.Context(), one(do("ANALYZE"))); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= n; i++ {
		id := fmt.Sprint("ev_", 100000000+i)
		ids = append(ids, id)
		if i%10000 == 0 {
			restored = append(restored, id)
		}
		if i%7000 == 0 {
			others = append(others, id)
		}
	}
	return ids, restored, others
}

// What few of many events match is found, however many questions that takes, and in
// the order of the whole.
func TestEvents_FewOfMany(t *testing.T) {
	const n = 2*eventsWindow + 5000
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			ids, restored, others := happened(t, s, n)
			for _, l := range [][]string{ids, others, restored} {
				slices.Reverse(l)
			}
			for _, c := range []struct {
				f    oauth.EventFilter
				want []string
			}{
				{oauth.EventFilter{Kind: oauth.EventRestored, Limit: 1000}, restored},
				{oauth.EventFilter{ClientID: "other", Limit: 1000}, others},
				{oauth.EventFilter{ClientID: "other", Limit: 4}, others[:4]},
				{oauth.EventFilter{ClientID: "other", Before: others[2], Limit: 1000}, others[3:]},
				{oauth.EventFilter{ClientID: "nobody", Limit: 1000}, nil},
				{oauth.EventFilter{Limit: n + 1}, ids},
			} {
				list, err := s.Events(t.Context(), c.f)
				if err != nil {
					t.Fatal(err)
				}
				if got := idsOf(list); !slices.Equal(got, c.want) {
					t.Errorf("%+v: %d events, want %d", c.f, len(got), len(c.want))
				}
			}
			slices.Reverse(restored)
			if list, err := s.Restores(t.Context()); err != nil || !slices.Equal(idsOf(list), restored) {
				t.Errorf("restores: %v, %v, want %v", idsOf(list), err, restored)
			}
		})
	}
}

func idsOf(list []oauth.Event) (ids []string) {
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	return ids
}

// No question about events reads more of them than its window: the export of a log asks
// for restores when it begins, and after a loss, whatever else happened.
func TestEvents_AskIndexesOnly(t *testing.T) {
	questions := []struct {
		sql, searched, cond string // what SQLite says, and the index and its bounds on PostgreSQL
		args                []any
	}{
		{"SELECT " + eventColumns + " FROM events WHERE " + restores, "USING INDEX events_restored", "events_restored", nil},
		{windowEnd, "USING PRIMARY KEY (id<?)", "events_pkey (id < ", []any{"ev_100030000", eventsWindow - 1}},
		{"SELECT " + eventColumns + " FROM events WHERE " + inWindow, "USING PRIMARY KEY (id>? AND id<?)", "events_pkey (id < AND id >= ", []any{"nobody", "", "", "ev_100030000", "code", 50, "ev_100010000"}},
	}
	ask := func(t *testing.T, s *Store, how, sql string, args []any, row func(scan func(...any) error) error) {
		t.Helper()
		if err := s.engine.query(t.Context(), how+sql, args, row); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	t.Run("SQLite", func(t *testing.T) {
		s := openAt(t, dsns()["SQLite"](t))
		for _, q := range questions {
			var lines []string
			ask(t, s, "EXPLAIN QUERY PLAN ", q.sql, q.args, func(scan func(...any) error) error {
				var id, parent, unused int
				var line string
				err := scan(&id, &parent, &unused, &line)
				lines = append(lines, line)
				return err
			})
			if len(lines) != 1 || !strings.HasSuffix(lines[0], q.searched) {
				t.Errorf("%s\nis answered by %q, not by %q alone", q.sql, lines, q.searched)
			}
		}
	})
	t.Run("Postgres", func(t *testing.T) {
		s := openAt(t, dsns()["Postgres"](t))
		happened(t, s, 4*eventsWindow) // so that nothing speaks for reading all of them
		for _, q := range questions {
			ask(t, s, "EXPLAIN (FORMAT JSON) ", q.sql, q.args, func(scan func(...any) error) error {
				var text string
				var top []struct{ Plan plan }
				err := scan(&text)
				if err == nil {
					err = json.Unmarshal([]byte(text), &top)
				}
				if err != nil {
					return err
				}
				index, bounds, _ := strings.Cut(strings.TrimSuffix(q.cond, " "), " (")
				top[0].Plan.walk(func(p *plan) {
					if p.Relation == "" {
						return
					}
					missing := p.Index != index
					for _, bound := range strings.Split(bounds, " AND ") {
						missing = missing || !strings.Contains(p.Cond, bound)
					}
					if missing {
						t.Errorf("%s\nis answered by %s %s %s, not by %s", q.sql, p.Type, p.Index, p.Cond, q.cond)
					}
				})
				return nil
			})
		}
	})
}
