package oauth

import (
	"context"
	"errors"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ClientForm is what a developer or operator says of an app. It is checked whole:
// every mistake is reported, each beside its field.
type ClientForm struct {
	ID        string // for an imported app; "" makes a UUID
	Reserved  ReservedID
	Name      string
	Type      ClientType
	Profile   ProfileName
	Redirects []string
	Scopes    []ClientScope
	Homepage  string
	Terms     string
	Privacy   string
	Settings  ClientSettings // iss; and, when an operator creates the app, what only he may set
}

// FieldErrors are the mistakes of a form, by field name ("redirect_uri[2]").
type FieldErrors map[string]*Error

func (f FieldErrors) Error() string {
	var b strings.Builder
	for field, e := range f {
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		b.WriteString(field + ": " + e.Description)
	}
	return b.String()
}

// Limits on what an app says of itself.
const (
	maxName = 60 // characters
	maxLink = 500
)

// CreateClient registers an app. A confidential one gets its secret, which is
// returned here and never again.
func (s *Server) CreateClient(ctx context.Context, actor Actor, f ClientForm) (*Client, Secret, error) {
	if actor.Kind != AsUser && !actor.runs() {
		return nil, "", refuse(NotSignedIn)
	}
	c := &Client{Type: f.Type, Profile: f.Profile, Origin: "portal", Status: Active, Version: 1, Created: s.now()}
	if actor.Kind == AsUser || actor.Kind == AsOperator {
		c.Owner = actor.ID
	} else {
		c.Origin = "command"
	}
	c.AuthMethod = BySecret
	if c.Type == Public {
		c.AuthMethod = ByNone
	}
	errs, err := s.applyForm(ctx, actor, c, f)
	if err != nil {
		return nil, "", err
	}
	if actor.runs() {
		c.Settings.setRules(f.Settings)
	}
	switch {
	case c.Profile != Standard && c.Profile != Exchange && c.Profile != Direct:
		errs["type"] = refuse(FieldRequired)
	case c.Profile == Exchange && c.Type != Confidential, c.Profile == Direct && c.Type != Public, c.Type != Confidential && c.Type != Public:
		errs["type"] = refuse(FieldRequired)
	case c.Profile == Direct && !actor.runs():
		errs["type"] = refuse(NotPermitted) // it mints guests unasked: the operator decides
	}
	switch {
	case f.ID == "" && f.Reserved.id != "":
		c.ID = f.Reserved.id
	case f.ID == "":
		if c.ID, err = s.newUUID(); err != nil {
			return nil, "", err
		}
	case !actor.runs():
		errs["id"] = refuse(NotPermitted)
	case !OpaqueID(f.ID):
		errs["id"] = refuse(IDMalformed)
	case strings.HasPrefix(f.ID, "https://"):
		errs["id"] = refuse(IDIsURL)
	case f.Profile == Direct && !survivesAtob(f.ID):
		errs["id"] = refuse(IDNotPlain)
	case f.Profile == Exchange && !isUUID(f.ID):
		errs["id"] = refuse(IDNotUUID)
	default:
		c.ID = f.ID
	}
	if len(errs) > 0 {
		return nil, "", errs
	}
	var secret Secret
	if c.AuthMethod == BySecret {
		var row ClientSecret
		if secret, row, err = s.newSecret(); err != nil {
			return nil, "", err
		}
		c.Secrets = []ClientSecret{row}
	}
	e, err := s.NewEvent(ctx, EventClientCreated, actor, map[string]any{"name": c.Name, "profile": c.Profile, "type": c.Type, "redirects": c.Redirects, "scopes": c.Scopes})
	if err != nil {
		return nil, "", err
	}
	e.ClientID = c.ID
	most := MaxApps
	if actor.runs() {
		most = math.MaxInt
	}
	won, err := s.storage.CreateClient(ctx, c, most, e)
	switch {
	case err != nil:
		return nil, "", err
	case !won:
		return nil, "", s.whyNotCreated(ctx, c, most)
	}
	return c, secret, nil
}

// whyNotCreated tells a user's form that was posted again from one app too many.
func (s *Server) whyNotCreated(ctx context.Context, c *Client, most int) error {
	since := c.Created.Add(-AppsWithin)
	n, first, err := s.storage.CountClients(ctx, c.Owner, since)
	if err != nil {
		return err
	}
	if n >= most {
		_, err = s.storage.Client(ctx, c.ID)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		e := refuse(AppTooMany)
		e.RetryAfter = first.Sub(since)
		return e
	case err != nil:
		return err
	}
	return FieldErrors{"id": refuse(IDTaken)}
}

func (s *Server) newSecret() (Secret, ClientSecret, error) {
	secret, err := NewClientSecret(s.rand)
	if err != nil {
		return "", ClientSecret{}, err
	}
	text := secret.Reveal()
	return secret, ClientSecret{Hash: HashOf(secret), Last4: text[len(text)-4:], Created: s.now()}, nil
}

// applyForm checks a form and fills c with it. What is the platform's, its name and its
// sites, only who runs it writes (attack B6); what he wrote, the developer may leave.
func (s *Server) applyForm(ctx context.Context, actor Actor, c *Client, f ClientForm) (FieldErrors, error) {
	errs := FieldErrors{}
	name := collapsed(f.Name)
	if e := s.checkName(strings.TrimSpace(f.Name)); e != nil {
		errs["name"] = e
	} else if !actor.runs() && name != collapsed(c.Name) {
		e, err := s.checkOthers(ctx, actor, name)
		if err != nil {
			return nil, err
		}
		if e != nil {
			errs["name"] = e
		}
	}
	c.Name = name
	c.Redirects = nil
	sent := false
	for i, raw := range f.Redirects {
		raw = strings.TrimSpace(raw)
		if raw == "" {
			continue
		}
		sent = true
		if e := checkRedirect(c, raw, c.Redirects); e != nil {
			errs[indexed("redirect_uri", i)] = e
			continue
		}
		c.Redirects = append(c.Redirects, RedirectURI(raw))
	}
	if !sent {
		errs[indexed("redirect_uri", 0)] = refuse(FieldRequired)
	}
	c.Scopes = nil
	seen := map[string]bool{}
	var missing []string
	for _, sc := range f.Scopes {
		if s.catalogue.Scope(sc.Name) == nil {
			missing = append(missing, sc.Name)
			errs["scope"] = notInCatalogue(missing)
			continue
		}
		if !seen[sc.Name] {
			seen[sc.Name] = true
			c.Scopes = append(c.Scopes, sc)
		}
	}
	if len(c.Scopes) == 0 && c.Profile != Direct && errs["scope"] == nil {
		errs["scope"] = refuse(FieldRequired)
	}
	for field, pair := range map[string]struct {
		from string
		to   *string
	}{"homepage": {f.Homepage, &c.Settings.Homepage}, "terms": {f.Terms, &c.Settings.Terms}, "privacy": {f.Privacy, &c.Settings.Privacy}} {
		link := strings.TrimSpace(pair.from)
		if link != "" {
			if e := checkLink(link); e != nil {
				errs[field] = e
				continue
			}
			if !actor.runs() && link != *pair.to && s.atHome(link) {
				errs[field] = refuse(LinkReserved)
				continue
			}
		}
		*pair.to = link
	}
	c.Settings.Iss = f.Settings.Iss
	return errs, nil
}

// checkOthers refuses a developer's name that could be taken for the platform's, or for
// that of somebody else's app which carries the badge (attack B6).
func (s *Server) checkOthers(ctx context.Context, actor Actor, name string) (*Error, error) {
	if speaksOf(name, s.platform) {
		return refuse(NameReserved), nil
	}
	known, err := s.storage.VerifiedClients(ctx)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(known, func(c *Client) bool { return c.Owner != actor.ID && alike(c.Name, name) }) {
		return refuse(NameTaken), nil
	}
	return nil, nil
}

// collapsed is a name as pages show it: white space at its ends is gone, and one space is
// left of any within.
func collapsed(name string) string { return strings.Join(strings.Fields(name), " ") }

func indexed(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

func checkLink(link string) *Error {
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "https" || u.Host == "" || !plainHost(u.Host) || u.User != nil || len(link) > maxLink || strings.ContainsFunc(link, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return refuse(LinkNotHTTPS)
	}
	return nil
}

// atHome reports whether a link leads to a site of the platform: consent shows its host
// beneath the app's name.
func (s *Server) atHome(link string) bool {
	u, err := url.Parse(link)
	if err != nil {
		return false
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	return slices.ContainsFunc(s.sites, func(site string) bool { return host == site || strings.HasSuffix(host, "."+site) })
}

// checkName refuses names that could deceive on the consent page (attack B6):
// control, format and bidi characters, marks that pose as a badge, doubles of other
// letters and digits, which NFKC would undo, letters of more than one script in one name,
// and marks where no language has them: on nothing, twice the same, or heaps (UTS 39, 5.4).
func (s *Server) checkName(name string) *Error {
	switch {
	case name == "":
		return refuse(FieldRequired)
	case utf8.RuneCountInString(name) > maxName:
		return refuse(FieldTooLong)
	case !utf8.ValidString(name):
		return refuse(FieldUnclean)
	}
	script, says := "", false
	var last rune          // before this one
	marks, accents := 0, 0 // since the last letter, and how many of them go with every script
	for _, r := range name {
		before := last
		last = r
		switch {
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.So, unicode.Me, unicode.Zl, unicode.Zp, unicode.Nl, unicode.No,
			unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r >= 0xf900, // doubles of plain letters, and what lies beyond the first plane
			unicode.Is(unicode.Lm, r) && unicode.Is(unicode.Latin, r), // raised doubles
			unicode.Is(unicode.Sm, r) && r > unicode.MaxASCII,         // √ is a tick
			strings.ContainsRune("ĲĳŉǄǅǆǇǈǉǊǋǌǱǲǳ", r):                // two letters in one
			return refuse(FieldUnclean)
		case unicode.Is(unicode.Mn, r):
			if marks++; unicode.Is(unicode.Inherited, r) {
				accents++
			}
			if marks > 4 || accents > 2 || r == before || !unicode.IsLetter(before) && !unicode.IsDigit(before) && !unicode.IsMark(before) {
				return refuse(FieldUnclean)
			}
			if unicode.Is(unicode.Inherited, r) {
				continue
			}
		case unicode.IsDigit(r):
			says = true
			fallthrough
		case !unicode.IsLetter(r) && !unicode.IsMark(r):
			marks, accents = 0, 0
			continue
		default:
			says = says || unicode.IsLetter(r)
			marks, accents = 0, 0
		}
		in := scriptOf(r)
		if script != "" && in != script {
			return refuse(FieldUnclean)
		}
		script = in
	}
	if !says {
		return refuse(FieldUnclean)
	}
	return nil
}

// scriptOf names the script of a letter, or of a mark that goes with one script alone. Japanese writes three scripts together,
// so they count as one.
func scriptOf(r rune) string {
	for name, table := range unicode.Scripts {
		if unicode.Is(table, r) {
			switch name {
			case "Han", "Hiragana", "Katakana":
				return "Japanese or Chinese"
			}
			return name
		}
	}
	return "unknown"
}

// MyClient reads an app that the actor may manage.
func (s *Server) MyClient(ctx context.Context, actor Actor, id string) (*Client, error) {
	c, err := s.storage.Client(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, refuse(NoSuch)
	case err != nil:
		return nil, err
	case !actor.runs() && (actor.Kind != AsUser || c.Owner == "" || c.Owner != actor.ID):
		return nil, refuse(NotPermitted) // 404, not 403: ids of others stay unknown (attack B4)
	}
	return c, nil
}

// Clients lists the actor's apps, or all for who runs the platform and asks for
// all.
func (s *Server) Clients(ctx context.Context, actor Actor, all bool, p Page) ([]*Client, error) {
	switch {
	case all && actor.runs():
		return s.storage.Clients(ctx, "", p)
	case (actor.Kind == AsUser || actor.Kind == AsOperator) && actor.ID != "":
		return s.storage.Clients(ctx, actor.ID, p)
	}
	return nil, refuse(NotSignedIn)
}

// UpdateClient changes an app. version is the one that the form was made from:
// it refuses to overwrite what somebody else changed meanwhile. Type, profile and
// id never change.
func (s *Server) UpdateClient(ctx context.Context, actor Actor, id string, version int64, f ClientForm) (*Client, error) {
	old, err := s.MyClient(ctx, actor, id)
	if err != nil {
		return nil, err
	}
	c := cloneClient(old)
	c.Version = version
	if errs, err := s.applyForm(ctx, actor, c, f); err != nil {
		return nil, err
	} else if len(errs) > 0 {
		return nil, errs
	}
	// What the operator vouched for is not carried over to another name or host, or to
	// what he has to look at before (attack B5).
	if !actor.runs() && (c.Name != collapsed(old.Name) || leadsElsewhere(old, c) || s.risksMore(old, c)) {
		c.Settings.Verified = false
	}
	return c, s.writeClient(ctx, actor, old, c)
}

// leadsElsewhere reports whether c shows or goes to a host that old did not (attack
// B5). One that is gone takes nothing from what was vouched for. Whose home an app has is
// part of its name; its papers, which consent links to, may be at any host of its links.
func leadsElsewhere(old, c *Client) bool {
	home := HostOf(old.Settings.Homepage)
	if h := HostOf(c.Settings.Homepage); h != "" && h != home {
		return true
	}
	known := []string{"", home, HostOf(old.Settings.Terms), HostOf(old.Settings.Privacy)}
	if !slices.Contains(known, HostOf(c.Settings.Terms)) || !slices.Contains(known, HostOf(c.Settings.Privacy)) {
		return true
	}
	host := func(r RedirectURI) string { return Redirect{uri: string(r)}.place() }
	return slices.ContainsFunc(c.Redirects, func(r RedirectURI) bool {
		return !slices.ContainsFunc(old.Redirects, func(was RedirectURI) bool { return host(was) == host(r) })
	})
}

// risksMore reports whether c asks for a scope of high risk that old did not.
func (s *Server) risksMore(old, c *Client) bool {
	had := old.ScopeSet()
	return slices.ContainsFunc(c.Scopes, func(x ClientScope) bool {
		sc := s.catalogue.Scope(x.Name)
		return sc != nil && sc.Risk == "high" && !had.Has(x.Name)
	})
}

// VerifyClient gives or takes the operator's badge. version is that of the app as he
// saw it: it refuses to vouch for what its developer made of it meanwhile. The badge is
// taken whatever he did: or he need only go on saving to keep it.
func (s *Server) VerifyClient(ctx context.Context, actor Actor, id string, version int64, verified bool) error {
	if !actor.runs() {
		return refuse(NotPermitted)
	}
	for range maxTries {
		old, err := s.MyClient(ctx, actor, id)
		if err != nil {
			return err
		}
		c := cloneClient(old)
		if verified {
			c.Version = version
		}
		c.Settings.Verified = verified
		if err = s.writeClient(ctx, actor, old, c); verified || !errors.Is(err, &Error{Reason: Changed}) {
			return err
		}
	}
	return refuse(Changed)
}

// SetRules changes what only the operator may set of an app: whether it may do
// without PKCE, rotates, continues guests, or must send an x-api-key. Badge, links
// and iss are left as they are.
func (s *Server) SetRules(ctx context.Context, actor Actor, id string, rules ClientSettings) error {
	if !actor.runs() {
		return refuse(NotPermitted)
	}
	old, err := s.MyClient(ctx, actor, id)
	if err != nil {
		return err
	}
	c := cloneClient(old)
	c.Settings.setRules(rules)
	return s.writeClient(ctx, actor, old, c)
}

func (s *ClientSettings) setRules(rules ClientSettings) {
	s.NoPKCE, s.RotateRefresh, s.ContinueGuest, s.APIKeyHash = rules.NoPKCE, rules.RotateRefresh, rules.ContinueGuest, rules.APIKeyHash
}

func (s *Server) writeClient(ctx context.Context, actor Actor, old, c *Client) error {
	e, err := s.NewEvent(ctx, EventClientUpdated, actor, map[string]clientView{"before": viewOf(old), "after": viewOf(c)})
	if err != nil {
		return err
	}
	e.ClientID = c.ID
	won, err := s.storage.UpdateClient(ctx, c, e)
	if err == nil && !won {
		return refuse(Changed)
	}
	return err
}

// public returns the settings without what is at rest of credentials.
func (s ClientSettings) public() ClientSettings {
	s.APIKeyHash = nil
	return s
}

// SuspendClient stops an app at once: it gets no codes and no keys, and its keys
// are refused until it is resumed.
func (s *Server) SuspendClient(ctx context.Context, actor Actor, id string) error {
	return s.setClientStatus(ctx, actor, id, Suspended, EventClientSuspended, actor.runs())
}

// ResumeClient lets a suspended app go on.
func (s *Server) ResumeClient(ctx context.Context, actor Actor, id string) error {
	return s.setClientStatus(ctx, actor, id, Active, EventClientResumed, actor.runs())
}

// DeleteClient ends an app for ever, with every key of it. name must be the
// app's name, typed by whoever deletes it.
func (s *Server) DeleteClient(ctx context.Context, actor Actor, id, name string) error {
	c, err := s.MyClient(ctx, actor, id)
	if err != nil {
		return err
	}
	if collapsed(name) != collapsed(c.Name) {
		return FieldErrors{"name": refuse(FieldRequired)}
	}
	return s.setClientStatus(ctx, actor, id, Deleted, EventClientDeleted, true)
}

func (s *Server) setClientStatus(ctx context.Context, actor Actor, id string, to Status, kind Kind, allowed bool) error {
	if _, err := s.MyClient(ctx, actor, id); err != nil {
		return err
	}
	if !allowed {
		return refuse(NotPermitted)
	}
	e, err := s.NewEvent(ctx, kind, actor, nil)
	if err != nil {
		return err
	}
	e.ClientID = id
	won, err := s.storage.SetClientStatus(ctx, id, to, e)
	if err == nil && !won {
		return refuse(Changed)
	}
	return err
}

// AddSecret gives an app a second secret, so that the first can be replaced
// without an outage. It is returned here and never again.
func (s *Server) AddSecret(ctx context.Context, actor Actor, id string) (Secret, error) {
	c, err := s.MyClient(ctx, actor, id)
	switch {
	case err != nil:
		return "", err
	case c.AuthMethod != BySecret:
		return "", refuse(NoSuch)
	}
	secret, row, err := s.newSecret()
	if err != nil {
		return "", err
	}
	e, err := s.NewEvent(ctx, EventSecretAdded, actor, map[string]string{"last4": row.Last4})
	if err != nil {
		return "", err
	}
	e.ClientID = id
	won, err := s.storage.AddSecret(ctx, id, row, e)
	switch {
	case err != nil:
		return "", err
	case !won:
		return "", refuse(TooMany)
	}
	return secret, nil
}

// RevokeSecret ends the secret whose last four characters are last4. The only
// secret cannot be revoked.
func (s *Server) RevokeSecret(ctx context.Context, actor Actor, id, last4 string) error {
	c, err := s.MyClient(ctx, actor, id)
	if err != nil {
		return err
	}
	hash, err := revocable(c.Secrets, last4)
	if err != nil {
		return err
	}
	e, err := s.NewEvent(ctx, EventSecretRevoked, actor, map[string]string{"last4": last4})
	if err != nil {
		return err
	}
	e.ClientID = id
	won, err := s.storage.RevokeSecret(ctx, id, hash, e)
	if err == nil && !won {
		return refuse(Changed)
	}
	return err
}

// ending is which of the secrets ends in last4; -1 if none does.
func ending(secrets []ClientSecret, last4 string) int {
	return slices.IndexFunc(secrets, func(s ClientSecret) bool { return s.Last4 == last4 })
}

// revocable finds the secret whose last four characters are last4, if there is
// another one.
func revocable(secrets []ClientSecret, last4 string) (Hash, error) {
	i := ending(secrets, last4)
	switch {
	case i < 0:
		return nil, refuse(NoSuch)
	case len(secrets) == 1:
		return nil, refuse(LastSecret)
	}
	return secrets[i].Hash, nil
}

// Reach says how many live grants an app has, of how many users: what deleting it
// would end.
func (s *Server) Reach(ctx context.Context, actor Actor, id string) (grants, users int, err error) {
	if _, err := s.MyClient(ctx, actor, id); err != nil {
		return 0, 0, err
	}
	return s.storage.CountGrants(ctx, id)
}
