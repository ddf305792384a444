package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// site is one installation: a folder, a database, and the nodes that serve it.
type site struct {
	dir, binary string
	database    string // what the configuration names
	issuer      string
	ledger      *ledger
	nodes       []*node
	stop        context.CancelFunc

	people                              []person
	exchange, public, direct, secretive app // secretive is the one whose secrets change
	api                                 app // with which keys are introspected
}

type person struct{ id, email string }

type app struct {
	id, secret string
	lasting    bool // its key has no end and no refresh token
	guests     bool // nobody consents
}

const (
	password    = "correct horse battery staple"
	callback    = "https://app.example/callback"
	customers   = 3
	storesEach  = 1
	patience    = 15 * time.Second // how long anybody may wait for any answer
	startWithin = 10 * time.Second
)

// newSite sets up an installation on a database that is there and empty, and
// starts its nodes, once they were prepared. Closing it kills them.
func newSite(ctx context.Context, binary, dir, database string, nodes int, prepare ...func(*site)) (*site, error) {
	s := &site{dir: dir, binary: binary, database: database}
	address, err := storagetest.FreeAddress()
	if err != nil {
		return nil, err
	}
	s.issuer = "http://" + address
	if s.ledger, err = newLedger(filepath.Join(dir, "ledger.jsonl")); err != nil {
		return nil, err
	}
	if _, err := s.command(ctx, "", "init", "--dir", dir, "--issuer", s.issuer, "--database", database); err != nil {
		return nil, err
	}
	if err := s.populate(ctx); err != nil {
		return nil, err
	}
	for i := range nodes {
		n, err := newNode(s, i)
		if err != nil {
			return nil, err
		}
		s.nodes = append(s.nodes, n)
	}
	for _, p := range prepare {
		p(s)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	for _, n := range s.nodes {
		go n.supervise(running)
	}
	for _, n := range s.nodes {
		if err := until(ctx, startWithin, func() bool { return n.ready(ctx) }); err != nil {
			said, _ := os.ReadFile(n.log())
			return nil, errors.Join(fmt.Errorf("node %d is not ready: %w\n%s", n.number, err, said), s.close())
		}
	}
	return s, nil
}

func (s *site) close() error {
	if s.stop != nil {
		s.stop()
		for _, n := range s.nodes {
			<-n.done
			n.wire.CloseIdleConnections()
		}
	}
	return s.ledger.close()
}

func (s *site) environ() []string { return []string{"PATH=" + os.Getenv("PATH")} }

// command runs a grantway command, which opens the database itself, and returns
// what it printed.
func (s *site) command(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	if args[0] != "init" {
		flags := len(args)
		if i := slices.Index(args, "--"); i >= 0 {
			flags = i
		}
		args = slices.Insert(args, flags, "--config", "config.yaml", "--json")
	}
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = s.dir, s.environ(), strings.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("grantway %s: %w: %s", strings.Join(args, " "), err, &said)
	}
	return out.Bytes(), nil
}

// populate makes customers with stores, and one app of each kind.
func (s *site) populate(ctx context.Context) error {
	for i := range customers {
		p := person{fmt.Sprintf("user-%d", i), fmt.Sprintf("mara-%d@shop.example", i)}
		if _, err := s.command(ctx, password, "user", "add", "--id", p.id, "--name", "Mara", "--email", p.email); err != nil {
			return err
		}
		for j := range storesEach {
			store := storeOf(p, j)
			if _, err := s.command(ctx, "", "store", "add", store, "--name", "Shop of "+p.id); err != nil {
				return err
			}
			if _, err := s.command(ctx, "", "member", "add", p.id, store, "--owner"); err != nil {
				return err
			}
		}
		s.people = append(s.people, p)
	}
	for a, args := range map[*app][]string{
		&s.exchange:  {"--profile", "exchange", "--redirect", callback, "--scope", "orders.view"},
		&s.secretive: {"--profile", "exchange", "--redirect", callback, "--scope", "orders.view"},
		&s.public:    {"--public", "--redirect", callback, "--scope", "orders.view"},
		&s.direct:    {"--profile", "direct", "--rotate-refresh"},
	} {
		if err := s.credentials(ctx, a, append([]string{"client", "add", "--name", "App"}, args...)...); err != nil {
			return err
		}
	}
	s.exchange.lasting, s.direct.guests = true, true
	return s.credentials(ctx, &s.api, "api", "secret")
}

func storeOf(p person, i int) string { return fmt.Sprintf("%s-store-%d", p.id, i) }

func (s *site) credentials(ctx context.Context, a *app, args ...string) error {
	out, err := s.command(ctx, "", args...)
	if err != nil {
		return err
	}
	var doc struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return fmt.Errorf("%w in %q", err, out)
	}
	a.id, a.secret = doc.ID, doc.Secret
	return nil
}

// The PKCE pair of RFC 7636, appendix B, and the redirect URI of apps without one.
const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	outOfBand = "urn:ietf:wg:oauth:2.0:oob:auto"
)

// guestPath asks for a guest's code.
func (s *site) guestPath() string {
	return "/oauth/authorize?" + url.Values{"client_id": {s.direct.id}, "redirect_uri": {outOfBand}, "response_type": {"code"},
		"state": {"st"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}}.Encode()
}

// cookie is the name of the session's cookie, which holds the issuer's port.
func (s *site) cookie(value string) *http.Cookie {
	_, port, _ := strings.Cut(strings.TrimPrefix(s.issuer, "http://"), ":")
	return &http.Cookie{Name: "grantway-" + port, Value: value}
}
