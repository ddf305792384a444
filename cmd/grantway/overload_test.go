package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What TestServe_Overload states: a node under all of that at once answers a client
// that behaves within these times, half of them and 99 of 100, and takes no more memory
// than this. Where a node at rest is slow already, because others want the same cores,
// it may take so many times as long as at rest.
const (
	overloadedMiddle = 2 * time.Second
	overloadedWait   = 5 * time.Second
	overloadedTimes  = 20
	overloadedMemory = 300 << 20 // bytes
)

// A real node under two thousand connections that send slowly, two hundred requests
// of a megabyte and a flood of exchanges with wrong secrets goes on to serve who
// behaves, stays within its memory, and tells everybody whom it sends away when to
// come again.
func TestServe_Overload(t *testing.T) {
	slow(t)
	s := newSite(t)
	p := s.serve("--limits-anonymous", "10, then 4 every 7s", "--metrics-listen", "127.0.0.1:0")
	var guests, app clientDoc
	s.run("", &guests, "client", "add", "--name", "Style Finder", "--profile", "direct")
	s.run("", &app, "client", "add", "--name", "Shop Pilot", "--profile", "exchange", "--redirect", "https://app.example/cb", "--scope", "stores.view")

	// What who behaves does: three requests.
	round := func() time.Duration {
		began := time.Now()
		a, err := p.exchange(app.ClientID, app.ClientSecret)
		if err != nil || a.text("code") != "invalid_code" {
			t.Fatalf("an exchange with the right secret: %v %d %s", err, a.status, a.body)
		}
		code, err := p.guestCode(guests.ClientID)
		if err == nil {
			_, err = p.redeem(guests.ClientID, code)
		}
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	var rest []time.Duration
	for range 100 {
		rest = append(rest, round())
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var attack sync.WaitGroup
	defer attack.Wait()
	defer stop()
	host := strings.TrimPrefix(p.url, "http://")
	dial := func() net.Conn {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("a connection was refused: %v", err)
			}
			return nil
		}
		context.AfterFunc(ctx, func() { c.Close() })
		return c
	}

	// Slow ones: a head, or a body, that comes byte by byte.
	const slow = 2000
	var connected sync.WaitGroup
	connected.Add(slow)
	for i := range slow {
		attack.Go(func() {
			c := dial()
			if c != nil {
				text := "GET /sign-in HTTP/1.1\r\nHost: x\r\nX-Slow: "
				if i%2 == 0 {
					text = "POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\n"
				}
				io.WriteString(c, text)
			}
			connected.Done()
			tick := time.NewTicker(500 * time.Millisecond)
			defer tick.Stop()
			for c != nil && ctx.Err() == nil {
				<-tick.C
				if _, err := io.WriteString(c, "s"); err != nil {
					return
				}
			}
		})
	}
	connected.Wait()

	var large, largeAnswered, largeLimited, largeShed, flood, floodShed atomic.Int64
	var huge sync.WaitGroup // each of them meets its end before the attack's, however slow the machine
	shed := func(resp *http.Response) bool {
		if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
			return false
		}
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || n < 1 {
			t.Errorf("%d without Retry-After", resp.StatusCode)
		}
		return true
	}
	// Huge ones: fifty at a time, each a state of a megabyte. Until there was no room for
	// one they stop half-way and keep their places: a node that is fast enough would have
	// answered each before the next, and nothing would be seen of how many it has.
	full, once := make(chan struct{}), sync.Once{}
	asks := "GET /oauth/authorize?client_id=" + guests.ClientID + "&state=" + strings.Repeat("s", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n"
	atOnce := make(chan struct{}, 50)
	for range 200 {
		huge.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			c := dial()
			if c == nil {
				return
			}
			large.Add(1)
			go func() {
				io.WriteString(c, asks[:len(asks)/2])
				select {
				case <-full:
				case <-ctx.Done():
				}
				io.WriteString(c, asks[len(asks)/2:])
			}()
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				return // it was closed for the sake of another
			}
			largeAnswered.Add(1)
			switch {
			case !shed(resp):
			case resp.StatusCode == http.StatusTooManyRequests: // its address has asked too often: there was room
				largeLimited.Add(1)
			default:
				largeShed.Add(1)
				once.Do(func() { close(full) })
			}
			c.Close()
		})
	}
	// And guesses, as fast as they are answered.
	for range 8 {
		attack.Go(func() {
			for ctx.Err() == nil {
				r, err := http.NewRequestWithContext(ctx, "GET", p.url+"/oauth2/"+app.ClientID+"/exchange/x", nil)
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("X-Client-Secret", "wrong")
				resp, err := client.Do(r)
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("a guess was not answered: %v", err)
					}
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				flood.Add(1)
				if shed(resp) {
					floodShed.Add(1)
				}
			}
		})
	}

	allAnswered := make(chan struct{})
	attack.Go(func() { huge.Wait(); close(allAnswered) })
	// Who behaves comes all the time, from the same address, for five seconds, or as long
	// as fifty rounds and the huge ones take where other tests want the same cores.
	var took []time.Duration
	var most int64
	patience := time.Now().Add(2 * time.Minute)
	attacked := func() bool {
		select {
		case <-allAnswered:
			return false
		default:
			return time.Now().Before(patience)
		}
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) || len(took) < 50 || attacked(); {
		took = append(took, round())
		most = max(most, resident(t, p.cmd.Process.Pid))
	}
	status, text := p.get("/readyz")
	if status != http.StatusOK {
		t.Errorf("/readyz: %d %s", status, text)
	}
	stop()
	attack.Wait()
	slices.Sort(rest)
	slices.Sort(took)
	half, most99 := rest[len(rest)/2], rest[len(rest)*99/100]
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	t.Logf("%d rounds of three requests, p50 %v (at rest %v), p99 %v (at rest %v); %d MB; %d huge, %d of them answered, %d with 429, %d with 503; %d guesses, %d of them sent away",
		len(took), p50, half, p99, most99, most>>20, large.Load(), largeAnswered.Load(), largeLimited.Load(), largeShed.Load(), flood.Load(), floodShed.Load())
	if p50 > max(overloadedMiddle, overloadedTimes*half) || p99 > max(overloadedWait, overloadedTimes*most99) {
		t.Errorf("p50 %v (at rest %v), p99 %v (at rest %v): who behaves has to wait", p50, half, p99, most99)
	}
	if most > overloadedMemory {
		t.Errorf("%d MB of memory", most>>20)
	}
	if largeAnswered.Load() != large.Load() || largeShed.Load() == 0 || flood.Load() == 0 || floodShed.Load() < flood.Load()/2 {
		t.Error("there was no overload")
	}
	if n := sample(scraped(t, p), "grantway_shed_total"); n < float64(largeShed.Load()) {
		t.Errorf("%v were sent away for want of room, says the metric; %d had no room", n, largeShed.Load())
	}
	if err := p.stop(); err != nil {
		t.Errorf("after all of that: %v", err)
	}
}

// resident is the memory of a process, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		t.Fatalf("no VmRSS in %s", status)
	}
	kb, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// Whoever guesses at a secret comes to the operator's notice by the command that
// docs/operating.md names, also if the node ends before its next batch is due.
func TestServe_WrongSecretsReachTheOperator(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve("--limits-anonymous", "200, then 1 every 1s")
	var app clientDoc
	s.run("", &app, "client", "add", "--name", "Shop Pilot", "--profile", "exchange", "--redirect", "https://app.example/cb", "--scope", "stores.view")
	for range 100 {
		if a, err := p.exchange(app.ClientID, "wrong"); err != nil || a.text("code") != "invalid_client_secret" {
			t.Fatalf("%v %d %s", err, a.status, a.body)
		}
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	paper, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, line, found := strings.Cut(string(paper), "\ngrantway events --kind secret.refused")
	line, _, _ = strings.Cut("events --kind secret.refused"+line, "\n")
	if !found {
		t.Fatal("docs/operating.md does not say how to see it")
	}
	out, err := grantway(s.dir, "", strings.Fields(line)...)
	if err != nil || strings.Count(out, "secret.refused") != 1 || !strings.Contains(out, app.ClientID) {
		t.Errorf("%v\n%s", err, out)
	}
}

// However many sign in at once, each is answered: signed in, told what is wrong, or
// told when to come again.
func TestServe_SignInsBeyondTheQueue(t *testing.T) {
	slow(t)
	t.Parallel()
	s := newSite(t)
	// The queue is as long as there are cores: with one, 300 overrun it on any machine.
	p, err := startServe(s.dir, []string{"GOMAXPROCS=1"}, "--metrics-listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	const n = 300
	statuses := make([]atomic.Int64, 600)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			a, err := send("POST", p.url+"/sign-in", formType, fmt.Sprintf("email=nobody%d%%40shop.example&password=wrong+horse+battery", i))
			if err != nil {
				t.Error(err)
				return
			}
			statuses[a.status].Add(1)
			wait, err := strconv.Atoi(a.header.Get("Retry-After"))
			switch a.status {
			case http.StatusUnprocessableEntity:
			case http.StatusServiceUnavailable, http.StatusTooManyRequests:
				if err != nil || wait < 1 {
					t.Errorf("%d with Retry-After %q", a.status, a.header.Get("Retry-After"))
				}
			default:
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	if err := until(30*time.Second, func() bool { return sample(scraped(t, p), "grantway_password_hashes") > 0 }); err != nil {
		t.Errorf("no password was seen to be checked: %v", err)
	}
	all.Wait()
	wrong, busy, many := statuses[422].Load(), statuses[503].Load(), statuses[429].Load()
	if wrong == 0 || busy == 0 || wrong+busy+many != n {
		t.Errorf("%d looked at, %d found the queue full, %d too many from one address", wrong, busy, many)
	}
}
