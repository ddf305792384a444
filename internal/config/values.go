package config

import (
	"bytes"
	"errors"
	"fmt"
	"image/png"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/grantway/grantway/internal/oauth"
)

// Setters check one value. Each error says what to write instead; errors.Join
// carries several. None repeats a value that may hold a secret.

// located is an error that names its own place, in another file than the value's.
type located struct{ error }

func setListen(c *Config, v string) error {
	if err := checkListen(v, "127.0.0.1:8080"); err != nil {
		return err
	}
	c.Listen = v
	return nil
}

func checkListen(v, example string) error {
	host, port, err := net.SplitHostPort(v)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 0 || n > 65535 || strconv.Itoa(n) != port {
		return fmt.Errorf("%q is not an address to listen on; write host:port, such as %s", v, example)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && host != "localhost" {
		return fmt.Errorf("%q is not an IP address; write one, such as 0.0.0.0:%s for every address of this machine", host, port)
	}
	return nil
}

func setMetricsListen(c *Config, v string) error {
	if err := checkListen(v, "127.0.0.1:9464"); err != nil {
		return err
	}
	// Metrics tell how much business the platform does, and nobody signs in to see them.
	if host, _, _ := net.SplitHostPort(v); !loopback(host) {
		return fmt.Errorf("%s is not loopback; write 127.0.0.1 and let a proxy of yours guard what leaves this machine", host)
	}
	c.MetricsListen = v
	return nil
}

func setIssuer(c *Config, v string) error {
	if err := checkBase(v); err != nil {
		return err
	}
	c.Issuer = v
	return nil
}

func setPagesURL(c *Config, v string) error { return setBase(&c.PagesURL, c.Issuer, v) }

func setAPIURL(c *Config, v string) error { return setBase(&c.APIURL, c.Issuer, v) }

func setBase(dst *string, issuer, v string) error {
	if err := checkBase(v); err != nil {
		return err
	}
	// Cookies and redirects follow the issuer's scheme; a page of the other one
	// would lose its session without a word.
	if strings.HasPrefix(issuer, "https:") && !strings.HasPrefix(v, "https:") {
		return errors.New("the issuer is https; write an https URL here too")
	}
	*dst = v
	return nil
}

// checkBase checks a URL that others are built on by appending a path. It must be
// the one spelling there is, since clients compare issuers byte for byte (RFC
// 8414, 3.3), and it must not put - or _ into the payload of a token, which a
// published client cannot decode (seed-contracts.md 1.8, trap 2).
func checkBase(v string) error {
	u, errs := parseURL(v)
	if u == nil {
		return errors.Join(errs...)
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		errs = append(errs, fmt.Errorf("http is for loopback only; write https://%s%s", u.Host, u.Path))
	}
	if u.Port() == "0" {
		errs = append(errs, errors.New("nobody listens on port 0; write the one under which this is reached"))
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		errs = append(errs, fmt.Errorf("write an https URL instead of %s", u.Scheme))
	}
	if strings.Contains(v, "?") {
		errs = append(errs, errors.New("remove the query, from the ? on"))
	}
	if strings.HasSuffix(u.Path, "/") {
		errs = append(errs, errors.New("remove the slash at the end"))
	}
	if inner := strings.TrimRight(u.Path, "/"); inner != "" && (strings.Contains(inner, "//") || strings.Contains(inner, "/./") || strings.Contains(inner, "/../") || strings.HasSuffix(inner, "/.") || strings.HasSuffix(inner, "/..")) {
		errs = append(errs, errors.New("write the path without //, /./ and /../"))
	}
	return errors.Join(errs...)
}

func setAPIAudience(c *Config, v string) error {
	u, errs := parseURL(v) // RFC 8707, 2: an absolute URI without a fragment
	if u != nil && strings.Contains(v, "?") {
		errs = append(errs, errors.New("remove the query, from the ? on"))
	}
	c.APIAudience = v
	return errors.Join(errs...)
}

// parseURL parses an absolute URL with a host and reports what none of ours may
// have. It returns nil with the error if there is no such URL.
func parseURL(v string) (*url.URL, []error) {
	u, err := url.Parse(v)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Hostname() == "" {
		return nil, []error{fmt.Errorf("%q is not a full URL; write one, such as https://id.example.com", v)}
	}
	var errs []error
	if u.User != nil {
		errs = append(errs, errors.New("remove the user and password before the @"))
	}
	if strings.Contains(v, "#") {
		errs = append(errs, errors.New("remove the fragment, from the # on"))
	}
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`~<>"\^{|}%`+"`", r) }) {
		errs = append(errs, errors.New("write it in letters, digits and -._/: alone, a host of other letters in its xn-- form"))
	}
	if u.Host != strings.ToLower(u.Host) || !strings.HasPrefix(v, u.Scheme) {
		errs = append(errs, errors.New("write scheme and host in small letters"))
	}
	if p := u.Port(); p == "443" && u.Scheme == "https" || p == "80" && u.Scheme == "http" || strings.HasSuffix(u.Host, ":") {
		errs = append(errs, errors.New("leave out the port, which is the usual one"))
	}
	return u, errs
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.Unmap().IsLoopback()
}

// checkTogether checks what no value shows alone.
func checkTogether(c *Config) error {
	return errors.Join(checkListeners(c), checkReach(c))
}

func checkListeners(c *Config) error {
	host, port, _ := net.SplitHostPort(c.Listen)
	own, metrics, _ := net.SplitHostPort(c.MetricsListen)
	a, err := netip.ParseAddr(own)
	six := err == nil && a.Unmap().Is6()
	everywhere := host == "" || host == "::" || host == "0.0.0.0" && !six // "::" is IPv4, too
	if c.MetricsListen == "" || port != metrics || port == "0" || host != own && !everywhere {
		return nil
	}
	return fmt.Errorf("metrics_listen: %s is listened on already, by listen (%s); write another port, such as 127.0.0.1:9464", c.MetricsListen, c.Listen)
}

func checkReach(c *Config) error {
	if c.Listen == "" || c.Issuer == "" { // wrong or missing, and reported
		return nil
	}
	host, _, _ := net.SplitHostPort(c.Listen)
	if !loopback(host) && !strings.HasPrefix(c.Issuer, "https:") {
		return fmt.Errorf("listen: %s can be reached from other machines, and the issuer %s is not https; set issuer to the https URL in front of this server, or listen to 127.0.0.1", c.Listen, c.Issuer)
	}
	return nil
}

var keywordDSN = regexp.MustCompile(`^\s*[a-z_]+\s*=`)

// setDatabase checks only what tells the two engines apart: the driver reads the
// address itself, several hosts and all.
func setDatabase(c *Config, v string) error {
	scheme, rest, isURL := strings.Cut(v, "://")
	switch {
	case isURL && scheme != "postgres" && scheme != "postgresql":
		return errors.New("only SQLite and PostgreSQL are supported; write the path of a file, or postgres://user:password@host/name")
	case isURL && rest == "", !isURL && keywordDSN.MatchString(v):
		return errors.New("write the address as postgres://user:password@host/name")
	case strings.ContainsFunc(v, unprintable) || len(v) > 4096:
		return errors.New("this is not an address but looks like the content of some other file; write the path of an SQLite file, or postgres://user:password@host/name")
	}
	c.Database = oauth.Secret(v)
	return nil
}

func setKeyRing(c *Config, v string) error {
	c.KeyRing = oauth.Secret(v)
	return nil
}

func setCatalogue(c *Config, v string) error {
	data, err := os.ReadFile(v)
	if err != nil {
		return unreadable(err)
	}
	catalogue, err := parseCatalogue(v, data)
	if err != nil {
		return located{err}
	}
	c.Catalogue = catalogue
	return nil
}

func setBrandName(c *Config, v string) error {
	if strings.TrimSpace(v) != v || strings.ContainsFunc(v, unprintable) || utf8.RuneCountInString(v) > 60 {
		return errors.New("write one plain line of at most 60 characters")
	}
	c.Brand.Name = v
	return nil
}

func hostOfIssuer(c *Config) string {
	u, err := url.Parse(c.Issuer)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

const largestLogo = 1 << 20 // bytes

func setBrandLogo(c *Config, v string) error {
	data, err := os.ReadFile(v)
	if err != nil {
		return unreadable(err)
	}
	if len(data) > largestLogo {
		return fmt.Errorf("%s is larger than 1 MB; save it smaller", v)
	}
	if _, err := png.DecodeConfig(bytes.NewReader(data)); err != nil {
		return fmt.Errorf("%s is not a PNG image; save it as one", v)
	}
	c.Brand.Logo = data
	return nil
}

var colour = regexp.MustCompile(`^#[0-9A-Fa-f]{6}$`)

func setBrandAccent(c *Config, v string) error {
	if !colour.MatchString(v) {
		return fmt.Errorf("%q is not a colour; write # and six hexadecimal digits, such as #1f5fbf", v)
	}
	c.Brand.Accent = strings.ToLower(v)
	return nil
}

func setBrandSupport(c *Config, v string) error {
	if u, err := url.Parse(v); err == nil && u.Scheme == "mailto" && strings.Contains(u.Opaque, "@") {
		c.Brand.Support = v
		return nil
	}
	if strings.Contains(v, "@") && !strings.Contains(v, ":") {
		return fmt.Errorf("write it as mailto:%s", v)
	}
	return setLink(&c.Brand.Support, v, "an https or mailto URL, such as mailto:help@example.com")
}

func setBrandPrivacy(c *Config, v string) error {
	return setLink(&c.Brand.Privacy, v, "an https URL, such as https://example.com/privacy")
}

func setBrandTerms(c *Config, v string) error {
	return setLink(&c.Brand.Terms, v, "an https URL, such as https://example.com/terms")
}

// setLink takes a link for people to follow, so it may have a query and a fragment.
func setLink(dst *string, v, want string) error {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return fmt.Errorf("%q is not a link for people; write %s", v, want)
	}
	*dst = v
	return nil
}

func setTrustedProxies(c *Config, v string) error {
	var errs []error
	c.TrustedProxies = nil
	for _, text := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' }) {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			var one netip.Addr
			if one, err = netip.ParseAddr(text); err == nil {
				network = netip.PrefixFrom(one, one.BitLen())
			}
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%q is no address and no network; write them as 10.0.0.7 or 10.0.0.0/24", text))
		case network.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("%s is an IPv4 address in IPv6 clothes; write it as IPv4", text))
		case network.Bits() == 0:
			errs = append(errs, fmt.Errorf("%s is everybody: name your own proxies", text))
		default:
			c.TrustedProxies = append(c.TrustedProxies, network.Masked())
		}
	}
	return errors.Join(errs...)
}

func setShutdownGrace(c *Config, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < time.Second || d > 10*time.Minute {
		return fmt.Errorf("%q is not a time from 1s to 10m; write a number and its unit, such as 30s", v)
	}
	c.ShutdownGrace = d
	return nil
}

// DefaultLimits are the limits of who sets none.
func DefaultLimits() Limits {
	var c Config
	for _, o := range Options() {
		if o.Kind == Rate {
			if err := o.set(&c, o.Default); err != nil {
				panic(err) // the table itself is wrong
			}
		}
	}
	return c.Limits
}

// bucketLongest is how long an empty bucket may take to be full again.
const bucketLongest = 365 * 24 * time.Hour

var bucket = regexp.MustCompile(`^([1-9][0-9]{0,8}), then ([1-9][0-9]{0,8}) every ([0-9a-zµ.]+)$`)

func setBucket(dst *Bucket, v string) error {
	if v == "off" {
		*dst = Bucket{}
		return nil
	}
	m := bucket.FindStringSubmatch(v)
	if m == nil {
		return fmt.Errorf("%q is not a limit; write how many at once and how many more after each time, such as \"10, then 4 every 7s\", or off", v)
	}
	every, err := time.ParseDuration(m[3])
	if err != nil || every < time.Millisecond || every > time.Hour {
		return fmt.Errorf("%q is not a time from 1ms to 1h; write a number and its unit, such as 7s", m[3])
	}
	dst.Size, _ = strconv.Atoi(m[1])
	dst.Refill, _ = strconv.Atoi(m[2])
	if float64(dst.Size)*float64(every) > float64(dst.Refill)*float64(bucketLongest) {
		return fmt.Errorf("%q is full again only after more than a year; let more through after each time, or write off", v)
	}
	dst.Every = every
	return nil
}

// setEventsKept takes days. The caches of every node, and what exports the events,
// must find those of the last days.
func setEventsKept(c *Config, v string) error {
	days, err := strconv.Atoi(strings.TrimSuffix(v, "d"))
	if err != nil || !strings.HasSuffix(v, "d") || days < 7 || days > 3660 {
		return fmt.Errorf("%q is not a time from 7d to 3660d; write a number of days, such as 400d", v)
	}
	c.EventsKept = time.Duration(days) * 24 * time.Hour
	return nil
}

// unreadable says in words why a file cannot be read.
func unreadable(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return fmt.Errorf("%s cannot be read: %w; write the path of a file that this user may read", p.Path, p.Err)
	}
	return err
}
