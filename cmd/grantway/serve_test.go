package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

const someApp = "11111111-2222-4333-8444-555555555555"

// What a command writes, a running serve knows within 100 ms of the command's end,
// also where its cache held the opposite (docs/operating.md, Many nodes): no question
// that is put later gets the old answer, however long the answer takes.
func TestServe_SeesCommandsWithin100ms(t *testing.T) {
	s := newSite(t)
	p := s.serve()
	worst := time.Duration(0)
	// change runs a command while the exchange is asked without pause, so that its
	// cache is warm, until the answer has the code.
	change := func(secret, code string, args ...string) (doc clientDoc) {
		t.Helper()
		var last time.Time // when the last question was put that got another answer
		stop := make(chan struct{})
		asked := make(chan error, 1)
		go func() {
			for {
				put := time.Now()
				a, err := p.exchange(someApp, secret)
				if err != nil || a.text("code") == code {
					asked <- err
					return
				}
				last = put
				select {
				case <-stop:
					asked <- fmt.Errorf("still %d %s", a.status, a.body)
					return
				default:
				}
			}
		}()
		s.run("", &doc, args...)
		ended := time.Now()
		limit := time.AfterFunc(20*time.Second, func() { close(stop) })
		defer limit.Stop()
		if err := <-asked; err != nil {
			t.Fatalf("%s: %v", strings.Join(args, " "), err)
		}
		late := last.Sub(ended)
		worst = max(worst, late)
		if late > 100*time.Millisecond {
			t.Errorf("%s: the old answer to a question put %v after the command ended", strings.Join(args, " "), late)
		}
		return doc
	}
	if a, err := p.exchange(someApp, "wrong"); err != nil || a.status != http.StatusNotFound || a.text("code") != "app_not_found" {
		t.Fatalf("before: %v %d %s", err, a.status, a.body)
	}
	app := change("wrong", "invalid_client_secret", "client", "add", "--id", someApp, "--name", "Shop Pilot", "--profile", "exchange",
		"--redirect", "https://app.example/callback", "--scope", "stores.view")
	for range 5 {
		change(app.ClientSecret, "AccessDenied", "client", "suspend", someApp)
		change(app.ClientSecret, "invalid_code", "client", "resume", someApp)
	}
	var second credentials
	s.run("", &second, "client", "secret", "add", someApp)
	change(second.ClientSecret, "invalid_code", "client", "verify", someApp)
	change(app.ClientSecret, "invalid_client_secret", "client", "secret", "revoke", "--", someApp, app.ClientSecret[68:])
	t.Logf("the old answer to questions put at the latest %v after the command ended", worst)
}

// A grant that a command ends is dead for introspection at once; its list and its
// events are complete.
func TestCommand_Grants(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve()
	var app clientDoc
	s.run("", &app, "client", "add", "--name", "Style Finder", "--profile", "direct")
	var api credentials
	s.run("", &api, "api", "secret")
	basic := map[string]string{"Content-Type": formType["Content-Type"],
		"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(api.ClientID+":"+api.ClientSecret))}
	active := func(token string) any {
		t.Helper()
		a, err := send("POST", p.url+"/oauth/introspect", basic, url.Values{"token": {token}}.Encode())
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("introspect: %v %d %s", err, a.status, a.body)
		}
		return a.doc["active"]
	}
	tokens := make([]string, 2)
	for i := range tokens {
		code, err := p.guestCode(app.ClientID)
		if err != nil {
			t.Fatal(err)
		}
		a, err := p.redeem(app.ClientID, code)
		if err != nil {
			t.Fatal(err)
		}
		tokens[i] = a.text("access_token")
	}
	var grants []grantDoc
	s.run("", &grants, "grant", "list", "--client", app.ClientID)
	if len(grants) != 2 || grants[0].Status != oauth.Live || grants[0].ClientName != "Style Finder" || grants[0].Keys != 1 || grants[0].Stores == nil {
		t.Fatalf("%+v", grants)
	}
	subject := map[string]string{} // user id → token
	for _, token := range tokens {
		var claims struct{ Sub string }
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil || json.Unmarshal(payload, &claims) != nil {
			t.Fatalf("%v in %s", err, payload)
		}
		subject[claims.Sub] = token
	}
	ended, other := subject[grants[0].UserID], subject[grants[1].UserID]
	for _, step := range []struct {
		command string
		ended   bool
	}{{"suspend", false}, {"resume", true}, {"revoke", false}} {
		if active(ended) != !step.ended {
			t.Fatalf("before %s: active is %v", step.command, active(ended))
		}
		s.run("", nil, "grant", step.command, grants[0].ID)
		if active(ended) != step.ended || active(other) != true {
			t.Errorf("after %s: active is %v, and of the other grant %v", step.command, active(ended), active(other))
		}
	}
	if _, err := grantway(s.dir, "", "grant", "resume", grants[0].ID, "--config", "config.yaml"); err == nil || !strings.Contains(err.Error(), "not in a state") {
		t.Errorf("a revoked grant was revived: %v", err)
	}
	if _, err := grantway(s.dir, "", "grant", "revoke", grants[0].ID, "--config", "config.yaml"); err == nil || !strings.Contains(err.Error(), "grant "+grants[0].ID+" is revoked already") {
		t.Errorf("revoked again: %v", err)
	}
	s.run("", &grants, "grant", "list", "--live")
	if len(grants) != 1 {
		t.Errorf("live: %+v", grants)
	}
	s.run("", nil, "user", "add", "--id", "idle", "--name", "Idle")
	s.run("", &grants, "grant", "list", "--user", "idle")
	if grants == nil || len(grants) != 0 {
		t.Errorf("of who has none: %+v", grants)
	}
	var events []eventDoc
	s.run("", &events, "events", "--client", app.ClientID, "--limit", "0")
	kinds := map[oauth.Kind]string{}
	for _, e := range events {
		kinds[e.Kind] = e.Actor
	}
	for _, kind := range []oauth.Kind{oauth.EventGrantSuspended, oauth.EventGrantResumed, oauth.EventGrantRevoked, oauth.EventClientCreated} {
		if kinds[kind] != "command" {
			t.Errorf("%s by %q", kind, kinds[kind])
		}
	}
	var last []eventDoc
	s.run("", &last, "events", "--client", app.ClientID, "--limit", "1")
	if len(last) != 1 || last[0].ID != events[0].ID {
		t.Errorf("--limit 1: %+v", last)
	}
}

// Lists are complete however long they are.
func TestCommand_ListsAreComplete(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	store, err := sqlstore.Open(t.Context(), filepath.Join(s.dir, "grantway.db"))
	if err != nil {
		t.Fatal(err)
	}
	const n = 2345
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			e := oauth.Event{ID: fmt.Sprintf("ev_%05d", i), At: time.UnixMicro(int64(i)), Kind: oauth.EventStorePut, StoreID: fmt.Sprint(i)}
			if err := store.PutStore(context.Background(), &oauth.Store{ID: fmt.Sprint(i), Name: "Same name", Status: oauth.Active}, e); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	var stores []storeDoc
	s.run("", &stores, "store", "list")
	seen := map[string]bool{}
	for _, st := range stores {
		seen[st.ID] = true
	}
	var events []eventDoc
	s.run("", &events, "events", "--limit", "0")
	if len(stores) != n || len(seen) != n || len(events) < n {
		t.Errorf("%d stores, %d of them different, %d events; want %d", len(stores), len(seen), len(events), n)
	}
}

// Two hundred commands write while serve answers, and none of either fails.
func TestCommand_WritesBesideServe(t *testing.T) {
	slow(t)
	t.Parallel()
	s := newSite(t)
	p := s.serve()
	var guests, exchange clientDoc
	s.run("", &guests, "client", "add", "--name", "Style Finder", "--profile", "direct")
	s.run("", &exchange, "client", "add", "--name", "Shop Pilot", "--profile", "exchange", "--redirect", "https://app.example/cb", "--scope", "stores.view")
	s.run("correct horse battery", nil, "user", "add", "--name", "Mara", "--email", "mara@shop.example")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	var requests atomic.Int64
	repeat := func(what string, every time.Duration, request func() error) {
		load.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for ctx.Err() == nil {
				<-tick.C
				if err := request(); err != nil {
					t.Errorf("%s: %v", what, err)
					return
				}
				requests.Add(1)
			}
		})
	}
	repeat("exchange", 2*time.Millisecond, func() error {
		a, err := p.exchange(exchange.ClientID, exchange.ClientSecret)
		if err == nil && a.text("code") != "invalid_code" {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})
	for range 2 {
		repeat("code and token", 2*time.Millisecond, func() error {
			code, err := p.guestCode(guests.ClientID)
			if err == nil {
				_, err = p.redeem(guests.ClientID, code)
			}
			return err
		})
	}
	repeat("sign-in", 100*time.Millisecond, func() error {
		a, err := send("POST", p.url+"/sign-in", formType, url.Values{"email": {"mara@shop.example"}, "password": {"correct horse battery"}}.Encode())
		if err == nil && a.status != http.StatusSeeOther {
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
		return err
	})

	const n = 200
	write := func(i int) error {
		args := [][]string{
			{"store", "add", fmt.Sprintf("store-%03d", i), "--name", "Store"},
			{"user", "add", "--id", fmt.Sprintf("user-%03d", i), "--name", "User"},
			{"client", "add", "--name", "App", "--redirect", "https://app.example/cb", "--scope", "stores.view"},
			{"member", "add", "member", "store", "--owner"},
		}[i%4]
		_, err := grantway(s.dir, "", append(args, "--config", "config.yaml")...)
		return err
	}
	s.run("", nil, "user", "add", "--id", "member", "--name", "Member")
	s.run("", nil, "store", "add", "store", "--name", "Store")
	atOnce := func(from, to, width int) {
		var group sync.WaitGroup
		slots := make(chan struct{}, width)
		for i := from; i < to; i++ {
			group.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				if err := write(i); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	atOnce(0, n, 16)
	stop()
	load.Wait()
	if requests.Load() < n {
		t.Errorf("only %d requests beside %d commands: no load", requests.Load(), n)
	}
	t.Logf("%d requests beside %d commands", requests.Load(), n)
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	atOnce(n, n+40, 16) // and on a stopped server: each opens and closes the database
	var stores []storeDoc
	var users []userDoc
	var clients []clientDoc
	s.run("", &stores, "store", "list", "store-")
	s.run("", &users, "user", "list", "user-")
	s.run("", &clients, "client", "list")
	if len(stores) != 60 || len(users) != 60 || len(clients) != 62 {
		t.Errorf("%d stores, %d users, %d apps: some writes were lost", len(stores), len(users), len(clients))
	}
	log, err := os.ReadFile(p.log)
	if err != nil || strings.Contains(string(log), `"level":"ERROR"`) {
		t.Errorf("%v\n%s", err, log)
	}
}

// SIGTERM: readiness fails first, while the listener is still open; a request under
// way is answered; the process exits with 0.
func TestServe_Drains(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve("--shutdown-grace", "50s") // so requests are taken for 5 s while readiness fails
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const body = "grant_type=authorization_code&client_id=nobody"
	fmt.Fprintf(conn, "POST /oauth/token HTTP/1.1\r\nHost: grantway\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", len(body))
	answers := bufio.NewReader(conn)
	// The handler reads the body: the request is under way.
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := answers.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, body[:10])

	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := until(20*time.Second, func() bool {
		status, text := p.get("/readyz")
		return status == http.StatusServiceUnavailable && strings.TrimSpace(text) == "draining"
	}); err != nil {
		t.Error("/readyz never said that the server is draining:", err)
	}
	if status, _ := p.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz while draining: %d", status)
	}
	if err := until(20*time.Second, func() bool { status, _ := p.get("/healthz"); return status == 0 }); err != nil {
		t.Error("the listener never closed:", err)
	}
	select {
	case err := <-p.exited:
		t.Fatalf("the process ended before its request did: %v", err)
	default:
	}
	fmt.Fprint(conn, body[10:])
	resp, err := http.ReadResponse(answers, nil)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the request under way: %v %v", resp, err)
	}
	select {
	case err := <-p.exited:
		p.once.Do(func() {})
		if err != nil {
			t.Errorf("exit: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the process did not end after its last request")
	}
	log, err := os.ReadFile(p.log)
	if err != nil || !strings.Contains(string(log), `"msg":"stopped"`) {
		t.Errorf("%v\n%s", err, log)
	}
}

// A second signal does not wait.
func TestServe_SecondSignal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve("--shutdown-grace", "10m")
	for range 2 {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		if err := until(20*time.Second, func() bool { status, _ := p.get("/readyz"); return status != http.StatusOK }); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-p.exited:
		p.once.Do(func() {})
	case <-time.After(20 * time.Second):
		t.Error("still there after a second signal")
	}
}
