// Command floor is the least that a durable token endpoint can cost here: net/http,
// one durable write, one ES256 signature, and no protocol. What our server costs
// more than this is the protocol's price, or waste. "make bench" starts both and
// prints the ratio.
//
//	/exchange  one row updated and one of 400 bytes inserted, both by random keys
//	           of 32 bytes, in one durable commit; one signature; JSON
//	/sign      one signature; JSON
//	/json      JSON as long as the claims of a key
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// store writes durably: when use returns nil, both rows are on disk.
type store interface {
	// fill inserts n rows with the keys of rowKey.
	fill(ctx context.Context, n int) error
	// use marks the row of key as used and inserts row under fresh.
	use(ctx context.Context, key, fresh [32]byte, row []byte) error
	close()
}

// rowKey is the key of the nth row that waits for its update: as good as random,
// and nothing has to remember it.
func rowKey(n uint64) [32]byte { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, n)) }

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "`address` to listen on")
	dsn := flag.String("db", "", "`path` of an SQLite file that is not there yet, or a postgres:// address of an empty database")
	rows := flag.Int("rows", 10_000, "rows that wait for their update; they are used in turn")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *dsn, *rows); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, dsn string, rows int) error {
	if dsn == "" || rows < 1 {
		return errors.New("-db names the database, and -rows is at least 1")
	}
	s, err := open(ctx, dsn)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.fill(ctx, rows); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler(s, key, uint64(rows)), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	fmt.Printf("Ready: listening on %s for the bench\n", l.Addr())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return server.Shutdown(context.WithoutCancel(ctx))
	}
}

func open(ctx context.Context, dsn string) (store, error) {
	if strings.HasPrefix(dsn, "postgres") {
		return openPostgres(ctx, dsn)
	}
	return openSQLite(ctx, dsn)
}

// answer is as long as a key's answer without its token.
type answer struct {
	Success bool   `json:"success"`
	Message string `json:"message"`
	Token   string `json:"token,omitempty"`
}

func handler(s store, key *ecdsa.PrivateKey, rows uint64) http.Handler {
	mux := http.NewServeMux()
	var next atomic.Uint64
	mux.HandleFunc("/exchange", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		token, err := sign(key)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		var fresh [32]byte
		rand.Read(fresh[:])
		if err := s.use(r.Context(), rowKey(next.Add(1)%rows), fresh, []byte(token)[:400]); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		write(w, answer{true, "done", token})
	})
	mux.HandleFunc("/sign", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		token, err := sign(key)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		write(w, answer{true, "done", token})
	})
	mux.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		write(w, newClaims())
	})
	return mux
}

func write(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

// claims stand for the payload of a key: about 400 bytes.
type claims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	IssuedAt int64  `json:"iat"`
	ID       string `json:"jti"`
	Scope    string `json:"scope"`
	GrantID  string `json:"grant_id"`
	Status   string `json:"status"`
}

var header = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"floor","typ":"apikey+jwt"}`))

func newClaims() claims {
	return claims{
		Issuer: "http://127.0.0.1:8080", Audience: "http://127.0.0.1:8080/api", Subject: "usr_06fq1t0z2r8d5k7x9w3y4v6n8m",
		ClientID: "6f0f3c2e-8f5b-4a51-9d0f-0c8f1d2b7a11", IssuedAt: time.Now().Unix(), ID: rand.Text() + rand.Text(),
		Scope: "orders.view orders.refund account.view", GrantID: "gr_06fq1t0z2r8d5k7x9w3y4v6n8m",
		Status: "http://127.0.0.1:8080/status/1-0#123456",
	}
}

// sign makes a JWT with ES256.
func sign(key *ecdsa.PrivateKey) (string, error) {
	payload, err := json.Marshal(newClaims())
	if err != nil {
		return "", err
	}
	buf := append(make([]byte, 0, 1024), header...)
	buf = base64.RawURLEncoding.AppendEncode(append(buf, '.'), payload)
	digest := sha256.Sum256(buf)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return string(base64.RawURLEncoding.AppendEncode(append(buf, '.'), sig[:])), nil
}
