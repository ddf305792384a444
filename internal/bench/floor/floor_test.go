package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/grantway/grantway/internal/storagetest"
)

// A floor that did more than it says would flatter us; one that did less would not be
// the least that there is.
func TestFloor_WritesBothRows(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "floor.db")
		writesBothRows(t, path, "sqlite", path)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		dsn := storagetest.Postgres(t)
		writesBothRows(t, dsn, "pgx", dsn)
	})
}

func writesBothRows(t *testing.T, dsn, driver, source string) {
	const rows, requests = 10, 100
	s, err := open(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.fill(context.Background(), rows); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h := handler(s, key, rows)
	var all sync.WaitGroup
	for range requests {
		all.Go(func() {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/exchange", nil))
			var a answer
			if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil || rec.Code != http.StatusOK || !signed(&key.PublicKey, a.Token) {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
		})
	}
	all.Wait()
	s.close()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var used, least, most, inserted, shortest, longest, shortestKey int
	err = db.QueryRow(`SELECT SUM(used), MIN(used), MAX(used), (SELECT COUNT(*) FROM keys), (SELECT MIN(LENGTH(row)) FROM keys),
		(SELECT MAX(LENGTH(row)) FROM keys), (SELECT MIN(LENGTH(id)) FROM keys) FROM codes`).Scan(&used, &least, &most, &inserted, &shortest, &longest, &shortestKey)
	if err != nil {
		t.Fatal(err)
	}
	if used != requests || least != requests/rows || most != requests/rows {
		t.Errorf("%d updates, %d to %d of a row; want %d, evenly", used, least, most, requests)
	}
	if inserted != requests || shortest != 400 || longest != 400 || shortestKey != 32 {
		t.Errorf("%d rows of %d to %d bytes by keys of %d; want %d of 400 by 32", inserted, shortest, longest, shortestKey, requests)
	}
}

// signed checks an ES256 signature.
func signed(key *ecdsa.PublicKey, token string) bool {
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(token[i+1:])
	digest := sha256.Sum256([]byte(token[:i]))
	return err == nil && len(sig) == 64 && ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}
