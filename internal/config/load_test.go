package config

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// folder writes files into a temporary folder and returns its path.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func onePixel(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewRGBA(image.Rect(0, 0, 1, 1))); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const smallCatalogue = `
groups:
  orders: {en: Orders}
scopes:
  - name: orders.view
    group: orders
    kind: store
    verb: see
    risk: elevated
    text: {en: See your orders.}
`

// enough is an environment that sets what is required, and no more.
var enough = []string{
	"GRANTWAY_ISSUER=https://id.example.com",
	"GRANTWAY_DATABASE=grantway.db",
	"GRANTWAY_KEY_RING=ring",
}

func TestLoad_wholeFile(t *testing.T) {
	dir := folder(t, map[string]string{
		"ring": "one\ntwo\n", "catalogue.yaml": smallCatalogue, "logo.png": onePixel(t),
		"config.yaml": `
# Everything there is.
listen: 0.0.0.0:443
issuer: https://id.example.com
pages_url: https://www.example.com/connect
api_url: https://api.example.com
api_audience: https://api.example.com/v1
database: postgres://grantway:p%40ss@db1:5432,db2:5432/grantway?sslmode=verify-full
key_ring: ring
catalogue: catalogue.yaml
brand:
  name: Example
  logo: logo.png
  accent: "#FFCC00"
  support: mailto:help@example.com
  privacy: https://example.com/privacy#apps
  terms: https://example.com/terms?lang=en
store_word: shop
log_level: warn
log_format: text
shutdown_grace: 1m30s
events_kept: 90d
metrics_listen: "[::1]:9464"
trusted_proxies: 10.0.0.7, 192.168.3.1/24 ::1
limits:
  anonymous: 20, then 5 every 1m
  client: off
  user: 7, then 1 every 1h
`})
	c, err := Load(filepath.Join(dir, "config.yaml"), []string{"HOME=/root"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ name, got, want string }{
		{"Listen", c.Listen, "0.0.0.0:443"},
		{"Issuer", c.Issuer, "https://id.example.com"},
		{"PagesURL", c.PagesURL, "https://www.example.com/connect"},
		{"APIURL", c.APIURL, "https://api.example.com"},
		{"APIAudience", c.APIAudience, "https://api.example.com/v1"},
		{"Database", c.Database.Reveal(), "postgres://grantway:p%40ss@db1:5432,db2:5432/grantway?sslmode=verify-full"},
		{"KeyRing", c.KeyRing.Reveal(), "one\ntwo"},
		{"KeyRingPath", c.KeyRingPath, filepath.Join(dir, "ring")},
		{"Brand.Name", c.Brand.Name, "Example"},
		{"Brand.Logo", string(c.Brand.Logo), onePixel(t)},
		{"Brand.Accent", c.Brand.Accent, "#ffcc00"},
		{"Brand.Support", c.Brand.Support, "mailto:help@example.com"},
		{"Brand.Privacy", c.Brand.Privacy, "https://example.com/privacy#apps"},
		{"Brand.Terms", c.Brand.Terms, "https://example.com/terms?lang=en"},
		{"StoreWord", c.StoreWord, "shop"},
		{"LogLevel", c.LogLevel.String(), slog.LevelWarn.String()},
		{"LogFormat", c.LogFormat, "text"},
		{"TrustedProxies", fmt.Sprint(c.TrustedProxies), "[10.0.0.7/32 192.168.3.0/24 ::1/128]"},
		{"MetricsListen", c.MetricsListen, "[::1]:9464"},
		{"ShutdownGrace", c.ShutdownGrace.String(), (90 * time.Second).String()},
		{"EventsKept", c.EventsKept.String(), (90 * 24 * time.Hour).String()},
		{"Limits", fmt.Sprint(c.Limits), "{{20 5 1m0s} {0 0 0s} {7 1 1h0m0s}}"},
	} {
		if x.got != x.want {
			t.Errorf("%s is %q, want %q", x.name, x.got, x.want)
		}
	}
	if s := c.Catalogue.Scope("orders.view"); s == nil || s.Text["en"] != "See your orders." {
		t.Errorf("the catalogue was not read: %+v", c.Catalogue.Scopes)
	}
}

func TestLoad_defaults(t *testing.T) {
	c, err := Load("", enough, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(c.Listen, c.PagesURL, c.APIURL, c.APIAudience, c.Brand.Name, c.Brand.Accent, c.StoreWord, c.LogLevel, c.LogFormat, c.ShutdownGrace, c.EventsKept, len(c.Catalogue.Scopes), c.KeyRingPath, c.Limits)
	want := fmt.Sprint("127.0.0.1:8080", "https://id.example.com", "https://id.example.com", "https://id.example.com/api", "id.example.com", "#1f5fbf", "store", slog.LevelInfo, "json", 30*time.Second, oauth.EventsKept, 0, "",
		// As published (seed-contracts 1.3).
		Limits{Bucket{10, 4, 7 * time.Second}, Bucket{12, 4, 2 * time.Second}, Bucket{300, 1, time.Minute}})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if DefaultLimits() != c.Limits {
		t.Errorf("DefaultLimits is %v", DefaultLimits())
	}
}

// The limits that docs/operating.md shows can be written so, and are the defaults.
func TestLoad_LimitsInThePaper(t *testing.T) {
	paper, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(paper), "## Limits\n")
	_, text, _ = strings.Cut(text, "```yaml\n")
	text, _, found := strings.Cut(text, "```")
	if !found {
		t.Fatal("docs/operating.md shows no limits")
	}
	dir := folder(t, map[string]string{"config.yaml": text})
	c, err := Load(filepath.Join(dir, "config.yaml"), enough, nil)
	if err != nil || c.Limits != DefaultLimits() || len(c.TrustedProxies) != 1 {
		t.Errorf("%v: %+v, %v", err, c.Limits, c.TrustedProxies)
	}
}

func TestLoad_precedence(t *testing.T) {
	dir := folder(t, map[string]string{"config.yaml": "listen: 127.0.0.1:1\nlog_level: debug\nstore_word: shop\n"})
	c, err := Load(filepath.Join(dir, "config.yaml"),
		append([]string{"GRANTWAY_LISTEN=127.0.0.1:2", "GRANTWAY_LOG_LEVEL=warn"}, enough...),
		map[string]string{"listen": "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" {
		t.Errorf("listen is %s: a flag must win", c.Listen)
	}
	if c.LogLevel != slog.LevelWarn {
		t.Errorf("log_level is %s: the environment must win over the file", c.LogLevel)
	}
	if c.StoreWord != "shop" {
		t.Errorf("store_word is %s: the file must win over the default", c.StoreWord)
	}
}

func TestLoad_paths(t *testing.T) {
	dir := folder(t, map[string]string{
		"config.yaml": "issuer: https://id.example.com\ndatabase: data.db\nkey_ring: ring\n",
		"ring":        "r\n", "dsn": "postgres://u:p@h/d\n", "other": "o",
	})
	file := filepath.Join(dir, "config.yaml")
	c, err := Load(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Database.Reveal(), filepath.Join(dir, "data.db"); got != want {
		t.Errorf("a path in the file is relative to its folder: %s, want %s", got, want)
	}
	c, err = Load(file, []string{"GRANTWAY_DATABASE_FILE=" + filepath.Join(dir, "dsn"), "GRANTWAY_KEY_RING=inline"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Database.Reveal() != "postgres://u:p@h/d" || c.KeyRing.Reveal() != "inline" || c.KeyRingPath != "" {
		t.Errorf("database %q, key ring %q from %q", c.Database.Reveal(), c.KeyRing.Reveal(), c.KeyRingPath)
	}
	c, err = Load(file, []string{"GRANTWAY_DATABASE=here.db"}, map[string]string{"key-ring": filepath.Join(dir, "other")})
	if err != nil {
		t.Fatal(err)
	}
	if c.Database.Reveal() != "here.db" || c.KeyRing.Reveal() != "o" {
		t.Errorf("database %q, key ring %q: a path outside the file stays as it is", c.Database.Reveal(), c.KeyRing.Reveal())
	}
}

// Every mistake is in one answer, one line each, with its place.
func TestLoad_allErrorsAtOnce(t *testing.T) {
	dir := folder(t, map[string]string{
		"config.yaml": `lisen: 127.0.0.1:1
issuer: http://user@id.example.com/?q#f
issuer: https://id.example.com
brand:
  acent: red
  accent: #ff0000
brand.name: Example
log_level: loud
shutdown_grace: 30
catalogue: catalogue.yaml
key_ring: missing
`,
		"catalogue.yaml": strings.Replace(smallCatalogue, "kind: store", "kind: shop", 1) + "extra: 1\n",
	})
	c, err := Load(filepath.Join(dir, "config.yaml"),
		[]string{"GRANTWAY_LISTENN=x", "GRANTWAY_STORE_WORD=", "GRANTWAY_DATABASE=a", "GRANTWAY_DATABASE_FILE=b", "GRANTWAY_LISTEN=8080", "GRANTWAY_LOG_FORMAT=json", "GRANTWAY_LOG_FORMAT=text"},
		map[string]string{"log-formt": "json", "brand-terms": "http://example.com"})
	if err == nil {
		t.Fatal("no error")
	}
	if c.Issuer != "" || c.settings != nil {
		t.Errorf("a Config beside an error: %+v", c)
	}
	got := strings.Split(strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), ""), "\n")
	want := []string{
		"config.yaml:3: issuer is given twice, first in line 2; keep one of the two",
		"config.yaml:1: lisen is not a setting; write listen or remove it",
		"config.yaml:5: brand.acent is not a setting; write accent or remove it",
		"config.yaml:6: brand.accent is empty; give it a value, in quotes if it begins with #, or remove the line",
		"config.yaml:7: brand.name is not written with a dot; write name: in a line of its own below brand:",
		"GRANTWAY_LOG_FORMAT is set twice; keep one of the two",
		"GRANTWAY_LISTENN is not a setting; write GRANTWAY_LISTEN or remove it",
		"GRANTWAY_STORE_WORD is empty; give it a value or unset it",
		"GRANTWAY_DATABASE and GRANTWAY_DATABASE_FILE are both set; keep one of the two",
		"--log-formt: not a setting; write log-format or remove it",
		`GRANTWAY_LISTEN: "8080" is not an address to listen on; write host:port, such as 127.0.0.1:8080`,
		"config.yaml:2: issuer: remove the user and password before the @",
		"config.yaml:2: issuer: remove the fragment, from the # on",
		"config.yaml:2: issuer: http is for loopback only; write https://id.example.com/",
		"config.yaml:2: issuer: remove the query, from the ? on",
		"config.yaml:2: issuer: remove the slash at the end",
		"config.yaml:11: key_ring: missing cannot be read: no such file or directory; write the path of a file that this user may read",
		`catalogue.yaml:7: orders.view: kind is "shop"; write store or account`,
		"catalogue.yaml:11: extra is not a part of a catalogue; remove it; there are groups, scopes",
		`--brand-terms: "http://example.com" is not a link for people; write an https URL, such as https://example.com/terms`,
		`config.yaml:8: log_level: "loud" is not one of the choices; write debug, info, warn or error`,
		`config.yaml:9: shutdown_grace: "30" is not a time from 1s to 10m; write a number and its unit, such as 30s`,
	}
	slices.Sort(got)
	slices.Sort(want)
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("unexpected: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing:    %s", line)
		}
	}
}

func TestLoad_badFile(t *testing.T) {
	for _, x := range []struct{ name, yaml, want string }{
		{"not YAML", "listen: [", "config.yaml:1: not readable as YAML"},
		{"a list of proxies", "trusted_proxies: [10.0.0.7, ::1]", "config.yaml:1: trusted_proxies is a list; write one value with commas between"},
		{"a list", "- listen", "config.yaml:1: the file is a list; write key: value pairs"},
		{"two documents", "store_word: shop\n---\nlisten: 127.0.0.1:1\n", "config.yaml:3: a second document begins here"},
		{"a mapping for a value", "listen:\n  host: 127.0.0.1\n", "config.yaml:1: listen is a mapping; write one value"},
		{"a value for a section", "brand: Example\n", "config.yaml:1: brand is a single value; write key: value pairs"},
		{"an anchor", "listen: &a 127.0.0.1:1\n", "config.yaml:1: listen is an anchor, alias or tag; write one value"},
		{"a merge", "<<: {listen: 127.0.0.1:1}\n", "config.yaml:1: a key is not plain text"},
		{"an unknown section", "smtp:\n  host: x\n", "config.yaml:1: smtp is not a setting"},
		{"an empty string", "listen: ''\n", "config.yaml:1: listen is empty"},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir := folder(t, map[string]string{"config.yaml": x.yaml})
			_, err := Load(filepath.Join(dir, "config.yaml"), enough, nil)
			if err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, x.want)) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %v\nwant %s…, alone", err, x.want)
			}
		})
	}
	t.Run("no such file", func(t *testing.T) {
		_, err := Load("/nowhere.yaml", nil, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "/nowhere.yaml cannot be read:") || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v: one line about the file, and nothing about what it may hold", err)
		}
	})
	t.Run("empty but for comments", func(t *testing.T) {
		dir := folder(t, map[string]string{"config.yaml": "# listen: x\nbrand:\n  # name: x\n"})
		if _, err := Load(filepath.Join(dir, "config.yaml"), enough, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestLoad_required(t *testing.T) {
	_, err := Load("", nil, nil)
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want one for each of issuer, database, key_ring:\n%v", len(lines), err)
	}
	for i, key := range []string{"issuer", "database", "key_ring"} {
		env := map[string]string{"key_ring": "GRANTWAY_KEY_RING_FILE"}[key] // a path, like the other two
		if !strings.HasPrefix(lines[i], key+" is not set; write it in the file, or set "+cmp.Or(env, "GRANTWAY_"+strings.ToUpper(key))+" or --") {
			t.Errorf("got %s", lines[i])
		}
	}
}

// A value that is there but empty is one mistake, not also a missing value.
func TestLoad_requiredButEmpty(t *testing.T) {
	dir := folder(t, map[string]string{"config.yaml": "issuer:\n"})
	for _, x := range []struct {
		file, env string
		flags     map[string]string
		want      string
	}{
		{file: filepath.Join(dir, "config.yaml"), want: filepath.Join(dir, "config.yaml") + ":1: issuer is empty"},
		{env: "GRANTWAY_ISSUER=", want: "GRANTWAY_ISSUER is empty"},
		{flags: map[string]string{"issuer": ""}, want: "--issuer: empty"},
	} {
		_, err := Load(x.file, append([]string{x.env}, enough[1:]...), x.flags)
		if err == nil || !strings.HasPrefix(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got  %v\nwant %s…, alone", err, x.want)
		}
	}
}

// value loads with some settings changed and returns what is said of it.
func value(env ...string) error {
	environ := env
	for _, e := range enough {
		name, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(env, func(own string) bool { return strings.HasPrefix(own, name+"=") }) {
			environ = append(environ, e)
		}
	}
	_, err := Load("", environ, nil)
	return err
}

// Kubernetes puts the addresses of services into the environment under their names
// (its documentation of services, "Environment variables").
func TestLoad_IgnoresServiceLinks(t *testing.T) {
	links := []string{
		"GRANTWAY_SERVICE_HOST=10.0.0.11", "GRANTWAY_SERVICE_PORT=8080", "GRANTWAY_SERVICE_PORT_HTTP=8080", "GRANTWAY_PORT=tcp://10.0.0.11:8080",
		"GRANTWAY_PORT_8080_TCP=tcp://10.0.0.11:8080", "GRANTWAY_PORT_8080_TCP_PROTO=tcp", "GRANTWAY_PORT_8080_TCP_PORT=8080", "GRANTWAY_PORT_8080_TCP_ADDR=10.0.0.11",
		"GRANTWAY_DB_SERVICE_HOST=10.0.0.12", "GRANTWAY_DB_PORT=udp://10.0.0.12:53", "GRANTWAY_DB_PORT_53_UDP_ADDR=10.0.0.12",
	}
	if _, err := Load("", append(links, enough...), nil); err != nil {
		t.Error(err)
	}
	for _, own := range []string{"GRANTWAY_PORT=8080", "GRANTWAY_SERVICE=x", "GRANTWAY_PORT_TCP=1", "GRANTWAY_SERVICE_NAME=x"} {
		name, _, _ := strings.Cut(own, "=")
		if err := value(own); err == nil || !strings.Contains(err.Error(), name+" is not a setting") {
			t.Errorf("%s: %v", own, err)
		}
	}
	for _, o := range Options() {
		if serviceLink(o.Env(), "https://id.example.com") || o.EnvFile() != "" && serviceLink(o.EnvFile(), "x") {
			t.Errorf("%s is never read", o.Env())
		}
	}
}

func TestLoad_accepts(t *testing.T) {
	for _, env := range []string{
		"GRANTWAY_ISSUER=https://id.example.com/auth",
		"GRANTWAY_ISSUER=https://id.example.com:8443",
		"GRANTWAY_ISSUER=https://xn--bcher-kva.example",
		"GRANTWAY_ISSUER=http://127.0.0.1:8080",
		"GRANTWAY_ISSUER=http://127.9.9.9",
		"GRANTWAY_ISSUER=http://[::1]:8080",
		"GRANTWAY_ISSUER=http://localhost:8080",
		"GRANTWAY_LISTEN=:8080",
		"GRANTWAY_LISTEN=[::]:8080",
		"GRANTWAY_LISTEN=127.0.0.1:0",
		"GRANTWAY_API_AUDIENCE=https://api.example.com/",
		"GRANTWAY_DATABASE=/var/lib/grantway/a=b.db",
		"GRANTWAY_DATABASE=postgresql:///grantway?host=/run/postgresql",
		"GRANTWAY_BRAND_SUPPORT=https://example.com/help?from=connect",
		"GRANTWAY_BRAND_NAME=Bücher & Söhne",
		"GRANTWAY_SHUTDOWN_GRACE=10m",
		"OTHER=",
	} {
		if err := value(env); err != nil {
			t.Errorf("%s: %v", env, err)
		}
	}
}

// What listens on every address of IPv4 leaves those of IPv6.
func TestLoad_Listeners(t *testing.T) {
	for _, x := range []struct {
		listen, metrics string
		free            bool
	}{
		{"0.0.0.0:9464", "[::1]:9464", true},
		{"0.0.0.0:9464", "127.0.0.1:9464", false},
		{"0.0.0.0:9464", "[::ffff:127.0.0.1]:9464", false},
		{"0.0.0.0:9464", "localhost:9464", false},
		{"[::]:9464", "[::1]:9464", false},
		{"[::]:9464", "127.0.0.1:9464", false},
		{":9464", "[::1]:9464", false},
		{"[::1]:9464", "127.0.0.1:9464", true},
	} {
		err := value("GRANTWAY_LISTEN="+x.listen, "GRANTWAY_METRICS_LISTEN="+x.metrics, "GRANTWAY_ISSUER=https://id.example.com")
		if (err == nil) != x.free {
			t.Errorf("listen %s, metrics_listen %s: %v", x.listen, x.metrics, err)
		}
	}
}

func TestLoad_refuses(t *testing.T) {
	png := onePixel(t)
	dir := folder(t, map[string]string{
		"empty": "\n", "text.png": "<svg/>", "cut.png": png[:10],
		"data.db": "SQLite format 3\x00\x10", "bytes": "\xff\xfe", "large.png": png + strings.Repeat("x", largestLogo),
	})
	for _, x := range []struct{ env, want string }{
		{"ISSUER=id.example.com", "not a full URL"},
		{"ISSUER=https:id.example.com", "not a full URL"},
		{"ISSUER=https://:443", "not a full URL"},
		{"ISSUER=https://id.example.com/", "remove the slash at the end"},
		{"ISSUER=https://id.example.com?", "remove the query"},
		{"ISSUER=https://id.example.com#", "remove the fragment"},
		{"ISSUER=https://me@id.example.com", "remove the user and password"},
		{"ISSUER=https://id.example.com/~me", "letters, digits"},
		{"ISSUER=https://id.example.com/a>b", "letters, digits"},
		{"ISSUER=https://id.example.com/%61", "letters, digits"},
		{"ISSUER=https://bücher.example", "xn--"},
		{"ISSUER=https://ID.example.com", "small letters"},
		{"ISSUER=HTTPS://id.example.com", "small letters"},
		{"ISSUER=https://id.example.com:443", "leave out the port"},
		{"ISSUER=https://id.example.com:", "leave out the port"},
		{"ISSUER=https://id.example.com/a//b", "without //"},
		{"ISSUER=https://id.example.com/a/../b", "without //"},
		{"ISSUER=https://id.example.com/..", "without //"},
		{"ISSUER=http://id.example.com", "http is for loopback only; write https://id.example.com"},
		{"ISSUER=http://10.0.0.1", "http is for loopback only"},
		{"ISSUER=http://localhost.example.com", "http is for loopback only"},
		{"LIMITS_ANONYMOUS=10/7s", `"10/7s" is not a limit; write how many at once and how many more after each time, such as "10, then 4 every 7s", or off`},
		{"LIMITS_ANONYMOUS=0, then 4 every 7s", "is not a limit"},
		{"LIMITS_CLIENT=12, then 4 every 2", `"2" is not a time from 1ms to 1h`},
		{"LIMITS_USER=5000000, then 1 every 1h", "full again only after more than a year"},
		{"LIMITS_CLIENT=12, then 4 every 2h", `"2h" is not a time from 1ms to 1h`},
		{"TRUSTED_PROXIES=10.0.0.7,proxy.example", `"proxy.example" is no address and no network`},
		{"TRUSTED_PROXIES=::ffff:10.0.0.7", "write it as IPv4"},
		{"TRUSTED_PROXIES=0.0.0.0/0", "0.0.0.0/0 is everybody"},
		{"METRICS_LISTEN=0.0.0.0:9464", "0.0.0.0 is not loopback"},
		{"METRICS_LISTEN=9464", "write host:port, such as 127.0.0.1:9464"},
		{"METRICS_LISTEN=127.0.0.1:8080", "metrics_listen: 127.0.0.1:8080 is listened on already, by listen (127.0.0.1:8080); write another port"},
		{"ISSUER=ftp://id.example.com", "write an https URL instead of ftp"},
		{"PAGES_URL=/connect", "not a full URL"},
		{"PAGES_URL=http://127.0.0.1:8080", "the issuer is https"},
		{"API_URL=https://api.example.com/", "remove the slash"},
		{"API_AUDIENCE=api", "not a full URL"},
		{"API_AUDIENCE=https://api.example.com#x", "remove the fragment"},
		{"API_AUDIENCE=https://api.example.com/~x", "letters, digits"},
		{"API_AUDIENCE=https://api.example.com?x", "remove the query"},
		{"LISTEN=127.0.0.1", "write host:port"},
		{"LISTEN=127.0.0.1:http", "write host:port"},
		{"LISTEN=127.0.0.1:65536", "write host:port"},
		{"LISTEN=127.0.0.1:+80", "write host:port"},
		{"LISTEN=id.example.com:80", "not an IP address"},
		{"DATABASE=mysql://u:hush@h/d", "only SQLite and PostgreSQL"},
		{"DATABASE=host=h password=hush", "write the address as postgres://"},
		{"DATABASE=postgres://", "write the address as postgres://"},
		{"DATABASE_FILE=" + filepath.Join(dir, "data.db"), "content of some other file"},
		{"DATABASE_FILE=" + filepath.Join(dir, "none"), "cannot be read: no such file"},
		{"KEY_RING_FILE=" + filepath.Join(dir, "empty"), "is empty"},
		{"KEY_RING_FILE=" + filepath.Join(dir, "bytes"), "holds no text"},
		{"CATALOGUE=" + filepath.Join(dir, "none"), "cannot be read"},
		{"CATALOGUE=" + filepath.Join(dir, "empty"), "there are no scopes"},
		{"BRAND_NAME= Example", "one plain line"},
		{"BRAND_NAME=a\nb", "one plain line"},
		{"BRAND_NAME=" + strings.Repeat("x", 61), "at most 60"},
		{"BRAND_LOGO=" + filepath.Join(dir, "text.png"), "not a PNG image"},
		{"BRAND_LOGO=" + filepath.Join(dir, "cut.png"), "not a PNG image"},
		{"BRAND_LOGO=" + filepath.Join(dir, "large.png"), "larger than 1 MB"},
		{"BRAND_ACCENT=red", "not a colour"},
		{"BRAND_ACCENT=#fff", "not a colour"},
		{"BRAND_ACCENT=#1f5fbf;}", "not a colour"},
		{"BRAND_SUPPORT=help@example.com", "write it as mailto:help@example.com"},
		{"BRAND_SUPPORT=javascript:alert(1)", "not a link for people"},
		{"BRAND_PRIVACY=mailto:me@example.com", "not a link for people"},
		{"BRAND_TERMS=https:///terms", "not a link for people"},
		{"STORE_WORD=tenant", "write store, shop or workspace"},
		{"LOG_LEVEL=INFO", "write debug, info, warn or error"},
		{"LOG_FORMAT=xml", "write json or text"},
		{"SHUTDOWN_GRACE=0s", "not a time"},
		{"SHUTDOWN_GRACE=11m", "not a time"},
		{"EVENTS_KEPT=400", "not a time"},
		{"EVENTS_KEPT=9600h", "not a time"},
		{"EVENTS_KEPT=6d", "from 7d to 3660d"},
		{"EVENTS_KEPT=3661d", "not a time"},
		{"EVENTS_KEPT=-7d", "not a time"},
		{"EVENTS_KEPT=sevend", "not a time"},
	} {
		err := value("GRANTWAY_" + x.env)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want … %s …", x.env, err, x.want)
			continue
		}
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error repeats a password: %v", x.env, err)
		}
	}
}

func TestLoad_nonLoopbackNeedsHTTPS(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:8080", ":8080", "[::]:8080", "192.168.1.4:8080"} {
		_, err := Load("", append([]string{"GRANTWAY_LISTEN=" + listen}, enough[1:]...), map[string]string{"issuer": "http://localhost:8080"})
		if err == nil || !strings.Contains(err.Error(), "set issuer to the https URL in front of this server") {
			t.Errorf("%s with an http issuer: %v", listen, err)
		}
	}
	for _, listen := range []string{"127.0.0.1:8080", "[::1]:0", "localhost:8080"} {
		if _, err := Load("", append([]string{"GRANTWAY_LISTEN=" + listen}, enough[1:]...), map[string]string{"issuer": "http://localhost:8080"}); err != nil {
			t.Errorf("%s with an http issuer: %v", listen, err)
		}
	}
}

// The table gives every option names that no other has, in one form, with a
// sentence, and no option is without a setter.
func TestOptions_table(t *testing.T) {
	key := regexp.MustCompile(`^[a-z]+(_[a-z]+)*(\.[a-z]+)?$`)
	seen := map[string]string{}
	for _, o := range Options() {
		if !key.MatchString(o.Key) {
			t.Errorf("%s: not a key like the others", o.Key)
		}
		for _, name := range []string{o.Env(), o.EnvFile(), "--" + o.Flag()} {
			if other, dup := seen[name]; dup && name != "" {
				t.Errorf("%s and %s share %s", o.Key, other, name)
			}
			seen[name] = o.Key
		}
		if o.set == nil || !strings.HasSuffix(o.Help, ".") || strings.Count(o.Help, ". ") > 0 {
			t.Errorf("%s: lacks a setter, or its help is not one sentence", o.Key)
		}
		if o.Required == (o.Default != "" || o.Derived != "") {
			t.Errorf("%s: either required, or with a default", o.Key)
		}
		if (o.Kind == Choice) != (len(o.Choices) > 0) {
			t.Errorf("%s: choices belong to a choice", o.Key)
		}
		if !strings.Contains(Reference(), "| `"+o.Key+"` | `"+o.Env()+"`") {
			t.Errorf("%s is not in the reference", o.Key)
		}
	}
}

func TestPrint_showsOriginsAndHidesSecrets(t *testing.T) {
	dir := folder(t, map[string]string{"config.yaml": "log_level: warn\n", "dsn": "postgres://grantway:a@b:hush@db/g?sslpassword=hush2&x=1"})
	c, err := Load(filepath.Join(dir, "config.yaml"),
		[]string{"GRANTWAY_ISSUER=https://id.example.com", "GRANTWAY_DATABASE_FILE=" + filepath.Join(dir, "dsn"), "GRANTWAY_KEY_RING=hush3"},
		map[string]string{"listen": "127.0.0.1:9"})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := c.Print(&b, true); err != nil {
		t.Fatal(err)
	}
	out := regexp.MustCompile(` +`).ReplaceAllString(b.String(), " ")
	for _, line := range []string{
		"listen 127.0.0.1:9 --listen",
		"issuer https://id.example.com GRANTWAY_ISSUER",
		"pages_url https://id.example.com default: the issuer",
		"database postgres://grantway:***@db/g?sslpassword=***&x=1 GRANTWAY_DATABASE_FILE, " + filepath.Join(dir, "dsn"),
		"key_ring (not shown) GRANTWAY_KEY_RING",
		"catalogue - default: no scopes",
		"log_level warn " + filepath.Join(dir, "config.yaml") + ":1",
		"shutdown_grace 30s default",
		"events_kept 400d default",
	} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}
	if n := strings.Count(out, "\n"); n != len(Options()) {
		t.Errorf("%d lines for %d settings", n, len(Options()))
	}
	if strings.Contains(out, "hush") {
		t.Errorf("a secret is printed:\n%s", out)
	}
	if s := fmt.Sprintf("%v %s %q", c.Database, c.KeyRing, c.KeyRing); strings.Contains(s, "hush") {
		t.Errorf("a secret prints itself: %s", s)
	}

	b.Reset()
	if err := c.Print(&b, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "a@b:hush@db") || strings.Contains(b.String(), "hush3") {
		t.Errorf("without redaction the address is whole and the key ring still hidden:\n%s", b.String())
	}
}
