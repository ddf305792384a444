package conformance

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// Two clients behind a real nginx that the operator named have two buckets, and an
// X-Forwarded-For that a client wrote gives it no other. Where nginx was not named
// its clients are one address, and the right secret passes all the same
// (docs/operating.md, Limits).
func TestLimits_BehindNginx(t *testing.T) {
	binary := build(t)
	for _, c := range []struct {
		name, settings string
		apart          bool
	}{
		{"trusted", "trusted_proxies: 127.0.0.1\n", true},
		{"not named", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := listenLoopback(t)
			d, dir := seed(t, binary, filepath.Join(t.TempDir(), "demo.db"), "http://"+l.Addr().String(),
				"limits: {anonymous: '10, then 1 every 1h'}\n"+c.settings)
			node := startNode(t, binary, dir, "node.log")
			startNginx(t, l, node.address)
			app, _ := d.App("exchange")
			// ask sends a request from an address, to nginx or past it, and returns the code
			// of the answer.
			ask := func(from, base, secret, forged string) string {
				t.Helper()
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
				client := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
				r, err := http.NewRequest("GET", base+"/oauth2/"+app.ClientID+"/exchange/unknown", nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("X-Client-Secret", secret)
				if forged != "" {
					r.Header.Set("X-Forwarded-For", forged)
				}
				resp, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				var answer struct{ Code string }
				if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
					t.Fatalf("%d: %v", resp.StatusCode, err)
				}
				if limited := resp.StatusCode == http.StatusTooManyRequests; limited != (answer.Code == "RateLimited") || limited != (resp.Header.Get("Retry-After") != "") {
					t.Errorf("%d %s, Retry-After %q", resp.StatusCode, answer.Code, resp.Header.Get("Retry-After"))
				}
				return answer.Code
			}
			want := func(what, got, want string) {
				t.Helper()
				if got != want {
					t.Errorf("%s: %s, want %s", what, got, want)
				}
			}
			const one, other = "127.0.0.2", "127.0.0.3"
			direct := "http://" + node.address
			for range 10 {
				want("one client", ask(one, d.Issuer, "wrong", ""), "invalid_client_secret")
			}
			want("its bucket is empty", ask(one, d.Issuer, "wrong", ""), "RateLimited")
			want("with a header of its own", ask(one, d.Issuer, "wrong", "198.51.100.1"), "RateLimited")
			want("its right secret", ask(one, d.Issuer, app.ClientSecret, ""), "invalid_code")
			expect := "RateLimited"
			if c.apart {
				expect = "invalid_client_secret"
			}
			want("another client", ask(other, d.Issuer, "wrong", ""), expect)
			want("its right secret", ask(other, d.Issuer, app.ClientSecret, ""), "invalid_code")
			// Past nginx, nobody's header counts.
			for range 10 {
				ask("127.0.0.4", direct, "wrong", "")
			}
			want("who asks directly", ask("127.0.0.4", direct, "wrong", "198.51.100.2"), "RateLimited")
		})
	}
}
