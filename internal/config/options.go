package config

import (
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Config is what an operator has decided, checked.
type Config struct {
	Listen         string           // host:port
	Issuer         string           // the iss of everything signed; no trailing slash
	PagesURL       string           // where people's pages are reached from outside; no trailing slash
	APIURL         string           // where machines reach the endpoints from outside; no trailing slash
	APIAudience    string           // the aud of keys for the platform's API
	Database       oauth.Secret     // the path of an SQLite file, or a postgres:// address, which may hold a password
	KeyRing        oauth.Secret     // the key ring itself
	KeyRingPath    string           // the file it came from; empty if it came in the environment
	Catalogue      *oauth.Catalogue // never nil
	Brand          Brand
	StoreWord      string // store, shop or workspace: what pages call a store
	LogLevel       slog.Level
	LogFormat      string         // json or text
	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed
	ShutdownGrace  time.Duration  // how long requests may finish after SIGTERM
	EventsKept     time.Duration  // how long events, and grants that were revoked, are kept
	MetricsListen  string         // host:port on loopback for /metrics; empty if there is none
	Limits         Limits

	settings []setting // where each value came from, for Print
}

// Brand is what makes the pages the operator's own.
type Brand struct {
	Name    string
	Logo    []byte // a PNG image; nil if there is none
	Accent  string // #rrggbb in small letters
	Support string // https or mailto URL, or empty
	Privacy string // https URL, or empty
	Terms   string // https URL, or empty
}

// Limits bound requests, on one node where nothing else is said.
type Limits struct {
	Anonymous Bucket // of an address, for requests that nobody has proved to be theirs
	Client    Bucket // of a client, for exchanges
	User      Bucket // of a user, for decisions about apps; over all nodes
}

// Bucket lets Size requests through at once, and Refill more after each Every. The
// zero Bucket sets no limit.
type Bucket struct {
	Size, Refill int
	Every        time.Duration
}

// Kind says how the value of an option is written.
type Kind string

// The kinds of options.
const (
	Text     Kind = "text"
	URL      Kind = "url"
	Path     Kind = "path"     // of a file; in the configuration file relative to its folder
	Database Kind = "database" // a Path or a postgres:// address
	Secret   Kind = "secret"   // the file and the flag name a file that holds it; Env holds it itself, EnvFile the file's name
	Choice   Kind = "choice"
	Duration Kind = "duration" // such as 30s or 2m; days where it is long, such as 400d
	Rate     Kind = "rate"     // such as "10, then 4 every 7s", or off
)

// Option is one row of the table of settings.
type Option struct {
	Key      string // the path in YAML, such as brand.name
	Kind     Kind
	Help     string   // one sentence
	Default  string   // empty if there is none
	Derived  string   // in words, what is taken where there is neither a value nor a Default
	Choices  []string // of a Choice
	Required bool

	set    func(c *Config, v string) error
	derive func(c *Config) string
}

// Env is the name in the environment, such as GRANTWAY_BRAND_NAME.
func (o Option) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(o.Key, ".", "_"))
}

// EnvFile is the name in the environment of a file that holds the value, for
// values that are or contain a secret; empty for all others.
func (o Option) EnvFile() string {
	if o.Kind == Secret || o.Kind == Database {
		return o.Env() + "_FILE"
	}
	return ""
}

// Flag is the name on the command line without its hyphens, such as brand-name.
func (o Option) Flag() string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(o.Key)
}

const envPrefix = "GRANTWAY_"

// Options returns the table: every setting there is, in the order of the
// documentation. Values are set in this order, so a derived one comes after what
// it is derived from.
func Options() []Option {
	issuer := func(c *Config) string { return c.Issuer }
	return []Option{
		{
			Key: "listen", Kind: Text, Default: "127.0.0.1:8080", set: setListen,
			Help: "Address and port to listen on; anything but loopback needs an https issuer.",
		},
		{
			Key: "issuer", Kind: URL, Required: true, set: setIssuer,
			Help: "Public https URL of this server, which every key carries for ever; http only for loopback.",
		},
		{
			Key: "pages_url", Kind: URL, Derived: "the issuer", derive: issuer, set: setPagesURL,
			Help: "Public URL under which people reach the pages, where it is not the issuer.",
		},
		{
			Key: "api_url", Kind: URL, Derived: "the issuer", derive: issuer, set: setAPIURL,
			Help: "Public URL under which apps reach the endpoints, where it is not the issuer.",
		},
		{
			Key: "api_audience", Kind: URL, Derived: "the issuer followed by /api", set: setAPIAudience,
			derive: func(c *Config) string { return c.Issuer + "/api" },
			Help:   "URI that names the platform's API in the keys made for it.",
		},
		{
			Key: "database", Kind: Database, Required: true, set: setDatabase,
			Help: "Path of an SQLite file, or a postgres:// address.",
		},
		{
			Key: "key_ring", Kind: Secret, Required: true, set: setKeyRing,
			Help: "File with the key ring that seals the signing keys (GRANTWAY_KEY_RING holds the ring itself); back it up apart from the database.",
		},
		{
			Key: "catalogue", Kind: Path, Derived: "no scopes", set: setCatalogue,
			Help: "YAML file that lists the scopes apps may ask for.",
		},
		{
			Key: "brand.name", Kind: Text, Derived: "the issuer's host", derive: hostOfIssuer, set: setBrandName,
			Help: "Name of the platform, as its customers know it.",
		},
		{
			Key: "brand.logo", Kind: Path, Derived: "the name in letters", set: setBrandLogo,
			Help: "PNG image shown at the top of every page.",
		},
		{
			Key: "brand.accent", Kind: Text, Default: "#1f5fbf", set: setBrandAccent,
			Help: "Colour of buttons and links, as #rrggbb.",
		},
		{
			Key: "brand.support", Kind: URL, Derived: "no link", set: setBrandSupport,
			Help: "Where people get help: an https or mailto URL.",
		},
		{
			Key: "brand.privacy", Kind: URL, Derived: "no link", set: setBrandPrivacy,
			Help: "The platform's privacy policy: an https URL.",
		},
		{
			Key: "brand.terms", Kind: URL, Derived: "no link", set: setBrandTerms,
			Help: "The platform's terms of service: an https URL.",
		},
		{
			Key: "store_word", Kind: Choice, Default: "store", Choices: []string{"store", "shop", "workspace"},
			Help: "What the pages call the thing that customers open to apps.",
			set:  func(c *Config, v string) error { c.StoreWord = v; return nil },
		},
		{
			Key: "log_level", Kind: Choice, Default: "info", Choices: []string{"debug", "info", "warn", "error"},
			Help: "The least severe messages to log.",
			set:  func(c *Config, v string) error { return c.LogLevel.UnmarshalText([]byte(v)) },
		},
		{
			Key: "log_format", Kind: Choice, Default: "json", Choices: []string{"json", "text"},
			Help: "How log lines are written.",
			set:  func(c *Config, v string) error { c.LogFormat = v; return nil },
		},
		{
			Key: "metrics_listen", Kind: Text, Derived: "no metrics", set: setMetricsListen,
			Help: "Loopback address and port for /metrics, such as 127.0.0.1:9464.",
		},
		{
			Key: "trusted_proxies", Kind: Text, Derived: "nobody: X-Forwarded-For is ignored", set: setTrustedProxies,
			Help: "Addresses or networks of your own proxies, with commas between: whom they name in X-Forwarded-For is believed.",
		},
		{
			Key: "limits.anonymous", Kind: Rate, Default: "10, then 4 every 7s",
			Help: "How many requests without the right secret one address may send to one node; \"off\" sets no limit.",
			set:  func(c *Config, v string) error { return setBucket(&c.Limits.Anonymous, v) },
		},
		{
			Key: "limits.client", Kind: Rate, Default: "12, then 4 every 2s",
			Help: "How many codes one app may exchange at one node; \"off\" sets no limit.",
			set:  func(c *Config, v string) error { return setBucket(&c.Limits.Client, v) },
		},
		{
			// A person decides a few times a day, and the tests of an app some hundred times at
			// once. All of it is kept for long: one a minute is 43,200 a month.
			Key: "limits.user", Kind: Rate, Default: "300, then 1 every 1m",
			Help: "How often one user may decide about apps, over all nodes, and how often an app that need not ask him goes on without; \"off\" sets no limit.",
			set:  func(c *Config, v string) error { return setBucket(&c.Limits.User, v) },
		},
		{
			Key: "shutdown_grace", Kind: Duration, Default: "30s", set: setShutdownGrace,
			Help: "How long requests may finish after the signal to stop.",
		},
		{
			Key: "events_kept", Kind: Duration, Default: "400d", set: setEventsKept,
			Help: "How long events, and grants that were revoked, are kept.",
		},
	}
}
