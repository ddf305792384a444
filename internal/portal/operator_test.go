package portal

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// operator signs in an operator called boss.
func (s *site) operator() *browser {
	s.t.Helper()
	if _, err := s.portal.people.CreateAccount(context.Background(), system, people.NewAccount{ID: "boss", Name: "Boss", Email: "boss@nordlicht.example", Password: password, Operator: true}); err != nil {
		s.t.Fatal(err)
	}
	b := s.browser()
	b.open("/sign-in")
	b.signIn("boss")
	return b
}

var operatorPages = []string{"/operator", "/operator/apps", "/operator/users", "/operator/stores", "/operator/grants", "/operator/followers", "/operator/do/suspend-app?id=x", "/operator/do/suspend-user?id=jonas", "/operator/do/revoke-grant?id=x"}

// TestOperator_PagesAreNotThereForOthers_B4: to users the answer is that of any unknown address; strangers may be an
// operator whose session has ended, so they are asked to sign in, and learn nothing.
func TestOperator_PagesAreNotThereForOthers_B4(t *testing.T) {
	s := newSite(t)
	jonas := s.developer("jonas", "/developer")
	c, _ := jonas.create()
	stranger := s.browser()
	for name, b := range map[string]*browser{"user": jonas, "stranger": stranger} {
		b.open("/nothing-here")
		lost := b.body
		back := func(path string) string { // the page with the way back to where one was as somebody else
			return strings.Replace(lost, `name="next" value=""`, `name="next" value="`+ownPath(path)+`"`, 1)
		}
		for _, path := range append(operatorPages, "/operator/", "/operator/apps/x") {
			b.open(path)
			if name == "stranger" && path != "/operator/apps/x" {
				if b.status != http.StatusOK || !strings.Contains(b.body, `action="/sign-in"`) {
					t.Errorf("%s: %s: %d, want the sign-in page", name, path, b.status)
				}
				continue
			}
			if b.status != http.StatusNotFound || b.body != back(path) {
				t.Errorf("%s: %s: %d, another page than for an unknown address: %t", name, path, b.status, b.body != back(path))
			}
		}
		for what := range deeds {
			b.post("/operator/do/"+what, url.Values{"id": {c.ID}}, s.url)
			if name == "stranger" {
				if b.status != http.StatusOK || !strings.Contains(b.body, `action="/sign-in"`) {
					t.Errorf("%s: POST %s: %d, want the sign-in page", name, what, b.status)
				}
				continue
			}
			if b.status != http.StatusNotFound || b.body != lost {
				t.Errorf("%s: POST %s: %d", name, what, b.status)
			}
		}
		b.post("/operator", nil, s.url)
		if name == "stranger" {
			continue
		}
		if b.status != http.StatusNotFound || b.body != lost {
			t.Errorf("%s: POST /operator: %d", name, b.status)
		}
	}
	if got, err := s.server.MyClient(context.Background(), system, c.ID); err != nil || got.Status != oauth.Active || got.Settings.Verified {
		t.Errorf("something was done: %+v, %v", got, err)
	}
}

func TestOperator_FormsFromAnotherOrigin(t *testing.T) {
	s := newSite(t)
	b := s.operator()
	s.user("mara", 1)
	c := s.app("Shelfmate", "stores.view")
	for what := range deeds {
		for _, id := range []string{c.ID, "mara"} {
			b.post("/operator/do/"+what, url.Values{"id": {id}}, "https://evil.example")
			b.sees(http.StatusForbidden, "This form came from another site")
		}
	}
	u, err := s.server.User(context.Background(), system, "mara")
	if err != nil || u.Status != oauth.Active {
		t.Errorf("something was done: %+v, %v", u, err)
	}
}

func TestOperator_AppIsSuspendedResumedAndVerified(t *testing.T) {
	s := newSite(t)
	b := s.operator()
	c := s.app("Shelfmate", "stores.view")
	s.app("Ledger Line", "stores.view")
	status := func() *oauth.Client {
		c, err := s.server.MyClient(context.Background(), system, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	b.open("/operator/apps?q=SHELF")
	b.sees(http.StatusOK, "Shelfmate", c.ID, "Not verified")
	if strings.Contains(b.body, "Ledger Line") {
		t.Error("the search finds too much")
	}
	for _, q := range []string{c.ID, "elfma"} {
		b.open("/operator/apps?q=" + url.QueryEscape(q))
		b.sees(http.StatusOK, "Shelfmate")
	}
	b.open("/operator/apps?q=nothing")
	b.sees(http.StatusOK, "No app found")

	b.open("/operator/apps")
	b.post("/operator/do/verify-app", url.Values{"id": {c.ID}}, s.url)
	b.sees(http.StatusOK, "Somebody changed this meanwhile.")
	if status().Settings.Verified {
		t.Error("verified as nobody saw it")
	}
	b.open("/operator/do/verify-app?id=" + c.ID)
	if status().Settings.Verified {
		t.Error("looking verifies")
	}
	b.press("Verify")
	b.sees(http.StatusOK, "Shelfmate carries your badge now.", "Take badge off Shelfmate")
	if !status().Settings.Verified {
		t.Error("not verified")
	}
	b.press("Take badge off Shelfmate")
	b.sees(http.StatusOK, "Shelfmate no longer carries your badge.")
	if status().Settings.Verified {
		t.Error("still verified")
	}

	for _, press := range []string{"Suspend Shelfmate", "Verify Shelfmate"} {
		if action, _ := b.form(press); action != "" || !strings.Contains(textOf(b.doc), press) {
			t.Errorf("%s does not ask first", press)
		}
	}
	b.open("/operator/do/suspend-app?id=" + c.ID)
	b.sees(http.StatusOK, "Suspend Shelfmate?", "refused at once")
	if status().Status != oauth.Active {
		t.Error("looking suspends")
	}
	b.press("Suspend")
	b.sees(http.StatusOK, "Shelfmate is suspended.", "Resume Shelfmate")
	if status().Status != oauth.Suspended {
		t.Error("not suspended")
	}
	b.post("/operator/do/suspend-app", url.Values{"id": {c.ID}}, s.url)
	b.sees(http.StatusOK, "It was so already.")
	b.press("Resume Shelfmate")
	b.sees(http.StatusOK, "Shelfmate works again")
	if status().Status != oauth.Active {
		t.Error("not resumed")
	}
	b.open("/operator")
	b.sees(http.StatusOK, "App suspended client.suspended by the operator boss@nordlicht.example App Shelfmate", "App resumed")
}

// The badge goes to the app that the operator saw, not to what it became before the press (attack B5).
func TestOperator_B5_BadgeForWhatWasShown(t *testing.T) {
	s := newSite(t)
	jonas := s.developer("jonas", "/developer")
	c, _ := jonas.create()
	edit := func(f oauth.ClientForm) {
		t.Helper()
		now, err := s.server.MyClient(context.Background(), system, c.ID)
		if err == nil {
			_, err = s.server.UpdateClient(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "jonas"}, c.ID, now.Version, f)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b := s.operator()
	f := oauth.ClientForm{Name: c.Name, Redirects: []string{"https://one.example/cb", "https://one.example/2", "https://two.example/cb"},
		Scopes: []oauth.ClientScope{{Name: "stores.view"}, {Name: "stores.orders.refund"}}, Homepage: "https://home.example/", Privacy: "https://lawyer.example/privacy"}
	edit(f)
	b.open("/operator/do/verify-app?id=" + c.ID)
	b.sees(http.StatusOK, "Verify "+c.Name+"?", "Developer jonas@nordlicht.example Home page https://home.example/ Privacy notice https://lawyer.example/privacy Terms of service None",
		"Sends people back to one.example, two.example Permissions")
	for _, name := range []string{"stores.view", "stores.orders.refund"} {
		if s := s.server.Catalogue().Scope(name); s == nil || !strings.Contains(textOf(b.doc), s.Text["en"]) {
			t.Errorf("%s is not shown", name)
		}
	}
	action, shown := b.form("Verify")
	f.Name = "Another Name"
	edit(f)
	b.post(action, shown, s.url)
	b.sees(http.StatusOK, "Somebody changed this meanwhile. Look at what is here now, then try again.", "Another Name", "Not verified", "Verify Another Name")
	if c, err := s.server.MyClient(context.Background(), system, c.ID); err != nil || c.Settings.Verified {
		t.Errorf("verified: %+v, %v", c, err)
	}
	b.open("/operator/do/verify-app?id=" + c.ID)
	b.press("Verify")
	b.sees(http.StatusOK, "Another Name carries your badge now.")
}

// TestOperator_NoticesSayWhatIsSo: anybody may have made the address of a notice.
func TestOperator_NoticesSayWhatIsSo(t *testing.T) {
	s := newSite(t)
	b := s.operator()
	s.user("mara", 1)
	c := s.app("Shelfmate", "stores.view")
	customer := s.browser()
	customer.open(ask(c))
	customer.signIn("mara")
	customer.press("Allow", "mara-1")
	s.redeem(c, customer.returned().Get("code"))
	grant := s.grants("mara")[0].ID
	of := map[string]string{"app": c.ID, "user": "mara", "grant": grant}
	notices := func(want ...string) {
		t.Helper()
		for what, d := range deeds {
			_, kind, _ := strings.Cut(what, "-")
			b.open(with(d.section, "done", what) + "&of=" + url.QueryEscape(of[kind]))
			said := strings.Contains(b.body, `class="result"`)
			if said != slices.Contains(want, what) {
				t.Errorf("%s: said %t, as %v is so", what, said, want)
			}
		}
	}
	notices("resume-app", "unverify-app", "resume-user")
	for _, err := range []error{s.server.SuspendClient(context.Background(), system, c.ID), s.server.SuspendUser(context.Background(), system, "mara"), s.server.RevokeGrant(context.Background(), system, grant)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	now, err := s.server.MyClient(context.Background(), system, c.ID)
	if err == nil {
		err = s.server.VerifyClient(context.Background(), system, c.ID, now.Version, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	notices("suspend-app", "verify-app", "suspend-user", "revoke-grant")
}

func TestOperator_UserIsSuspendedAndNeverOneself(t *testing.T) {
	s := newSite(t)
	b := s.operator()
	s.user("usr_mara", 0)
	mara := s.browser()
	mara.open("/sign-in")
	mara.signIn("usr_mara")
	mara.sees(http.StatusOK, "Connected apps")

	b.open("/operator/users?q=usr_mara") // an id with a character that patterns know
	b.sees(http.StatusOK, "usr_mara@nordlicht.example")
	b.open("/operator/users")
	b.sees(http.StatusOK, "boss@nordlicht.example", "This is you", "usr_mara@nordlicht.example")
	if strings.Contains(b.body, "suspend-user?id=boss") || !strings.Contains(b.body, "suspend-user?id=usr_mara") {
		t.Error("the wrong people can be suspended")
	}
	b.post("/operator/do/suspend-user", url.Values{"id": {"boss"}}, s.url)
	if b.status != http.StatusNotFound {
		t.Errorf("suspending oneself: %d", b.status)
	}
	b.open("/operator/do/suspend-user?id=usr_mara")
	if title := titleOf(b.doc); title != "Suspend usr_mara@nordlicht.example? · Kaufhaus" {
		t.Errorf("the title is %q", title)
	}
	b.sees(http.StatusOK, "Suspend usr_mara@nordlicht.example?")
	b.press("Suspend")
	b.sees(http.StatusOK, "usr_mara@nordlicht.example is suspended")
	b.post("/operator/do/suspend-user", url.Values{"id": {"usr_mara"}}, s.url)
	b.sees(http.StatusOK, "It was so already.", "Resume usr_mara@nordlicht.example")
	b.post("/operator/do/suspend-user", url.Values{"id": {"nobody"}}, s.url)
	b.sees(http.StatusNotFound)
	b.open("/operator/users")
	mara.open("/connected-apps")
	if mara.status == http.StatusOK && mara.address.Path == "/connected-apps" {
		t.Error("a suspended person goes on")
	}
	b.press("Resume usr_mara@nordlicht.example")
	b.sees(http.StatusOK, "can sign in again")
	b.post("/operator/do/resume-user", url.Values{"id": {"usr_mara"}}, s.url)
	b.sees(http.StatusOK, "It was so already.")
	b.open("/operator/users?q=nobody")
	b.sees(http.StatusOK, "No user found")
}

func TestOperator_GrantsAreFilteredAndRevoked(t *testing.T) {
	s := newSite(t)
	b := s.operator()
	s.user("mara", 2)
	s.user("nils", 1)
	shelf, ledger := s.app("Shelfmate", "stores.view"), s.app("Ledger Line", "user.view")
	connect := func(user string, c *oauth.Client, stores ...string) {
		t.Helper()
		customer := s.browser()
		customer.open(ask(c))
		customer.signIn(user)
		customer.press("Allow", stores...)
		s.redeem(c, customer.returned().Get("code"))
	}
	connect("mara", shelf, "mara-1")
	connect("nils", shelf, "nils-1")
	connect("mara", ledger)
	for query, want := range map[string]map[string]bool{
		"":                              {"Store mara-1": true, "Store nils-1": true, "Ledger Line": true},
		"?user=mara":                    {"Store mara-1": true, "Store nils-1": false, "Ledger Line": true},
		"?app=" + shelf.ID:              {"Store mara-1": true, "Store nils-1": true, "Ledger Line": false},
		"?store=nils-1":                 {"Store mara-1": false, "Store nils-1": true, "Ledger Line": false},
		"?user=nils&app=" + ledger.ID:   {"Store mara-1": false, "Store nils-1": false, "No connection found": true, "A field takes a whole id": true},
		"?user=%20mara%20&store=mara-1": {"Store mara-1": true, "Ledger Line": false},
	} {
		b.open("/operator/grants" + query)
		for text, there := range want {
			if strings.Contains(textOf(b.doc), text) != there {
				t.Errorf("%s: %q there: %t", query, text, !there)
			}
		}
	}
	grant := s.grants("nils")[0].ID
	b.open("/operator/do/revoke-grant?id=" + grant)
	b.sees(http.StatusOK, "Revoke this connection?", grant, "App Shelfmate User nils@nordlicht.example Stores Store nils-1")
	b.open("/operator/do/revoke-grant?id=" + s.grants("mara")[0].ID) // the latest: Ledger Line
	b.sees(http.StatusOK, "App Ledger Line User mara@nordlicht.example Stores The account only, no store")
	b.open("/operator/do/revoke-grant?id=nothing")
	b.sees(http.StatusNotFound)
	b.open("/operator/do/revoke-grant?id=" + grant)
	b.press("Revoke")
	b.sees(http.StatusOK, "The connection Shelfmate, nils@nordlicht.example is revoked. Its keys are refused from this moment on.")
	if strings.Contains(textOf(b.doc), "Store nils-1") || s.grants("nils")[0].Status != oauth.GrantIsRevoked || s.grants("mara")[0].Status == oauth.GrantIsRevoked {
		t.Error("the wrong one ended, or none")
	}
	b.post("/operator/do/revoke-grant", url.Values{"id": {grant}}, s.url)
	b.sees(http.StatusOK, "It was so already.")
	b.open("/operator/grants?all=1&user=nils")
	b.sees(http.StatusOK, "Revoked", "Show live ones only")

	b.open("/operator/stores?q=store%20nils")
	b.sees(http.StatusOK, "nils-1.example")
	if strings.Contains(b.body, "mara-1") {
		t.Error("the search for stores finds too much")
	}
}

// TestOperator_EventsGoBackToTheFirst follows "Next" to the end: every event once, newest first.
func TestOperator_EventsGoBackToTheFirst(t *testing.T) {
	s := newSite(t)
	b := s.operator()
	for i := range rowsPerPage + 1 {
		if err := s.server.PutStore(context.Background(), system, oauth.Store{ID: "s" + strconv.Itoa(i), Name: "Store"}); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.server.Events(context.Background(), system, oauth.EventFilter{Limit: 1000})
	if err != nil || len(all) <= rowsPerPage {
		t.Fatal(len(all), err)
	}
	var seen []string
	for path := "/operator"; path != ""; {
		b.open(path)
		page := strings.Split(b.body, `<li class="event`)
		for _, row := range page[1:] {
			_, id, _ := strings.Cut(row, `id="`)
			id, _, _ = strings.Cut(id, `"`)
			seen = append(seen, id)
		}
		_, rest, more := strings.Cut(b.body, `href="/operator?before=`)
		path = ""
		if more {
			before, _, _ := strings.Cut(rest, `"`)
			path = "/operator?before=" + before
		}
	}
	if len(seen) != len(all) {
		t.Fatalf("%d events seen, %d there are", len(seen), len(all))
	}
	for i := range all {
		if seen[i] != all[i].ID {
			t.Fatalf("event %d is %s, want %s", i, seen[i], all[i].ID)
		}
	}
	b.open("/operator?kind=store")
	b.sees(http.StatusOK, "store.put", all[0].At.UTC().Format("15:04:05")+" UTC")
	if strings.Contains(b.body, "user.created") || !strings.Contains(b.body, "kind=store&amp;") && !strings.Contains(b.body, "&amp;kind=store") {
		t.Error("the filter by kind lets users through, or is lost on the next page")
	}
	b.open("/operator?kind=user.created")
	b.sees(http.StatusOK, "Account created user.created")
	if strings.Contains(b.body, "user.signed_in") {
		t.Error("the filter by kind lets another kind through")
	}
	b.open("/operator?user=boss")
	b.sees(http.StatusOK, "Account created user.created")
	if strings.Contains(b.body, "store.put") {
		t.Error("the filter lets stores through")
	}
}

func TestOperator_EventOfADeletedAppAndAnUnknownKind(t *testing.T) {
	s := newSite(t)
	b := s.operator()
	c := s.app("Shelfmate", "stores.view")
	if err := s.server.DeleteClient(context.Background(), system, c.ID, "Shelfmate"); err != nil {
		t.Fatal(err)
	}
	b.open("/operator?app=" + c.ID)
	b.sees(http.StatusOK, "App deleted client.deleted by the server itself App "+c.ID)
	row, err := s.portal.eventRow(&oauth.Event{Kind: "moon.rose", Actor: "", At: time.Now()}, nil)
	if err != nil || row.Words != "event.other" || row.Kind != "moon.rose" {
		t.Errorf("%+v, %v", row, err)
	}
}

// TestOperator_EveryKindIsInWords reads the kinds off the source: one without a sentence would be called "something else".
func TestOperator_EveryKindIsInWords(t *testing.T) {
	r := sampleRenderer(t, shop)
	found := 0
	for _, folder := range []string{"../oauth", "../people"} {
		sources, err := filepath.Glob(folder + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, source := range sources {
			file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok || len(spec.Names) != 1 || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Event") {
					return true
				}
				if value, ok := spec.Values[0].(*ast.BasicLit); ok && value.Kind == token.STRING {
					kind, _ := strconv.Unquote(value.Value)
					found++
					if !r.says("event." + kind) {
						t.Errorf("%s has no words", kind)
					}
				}
				return true
			})
		}
	}
	if found < 30 {
		t.Errorf("only %d kinds found", found)
	}
}

func TestOperator_DeedsAreInWords(t *testing.T) {
	r := sampleRenderer(t, shop)
	for what, d := range deeds {
		for _, id := range []string{"do." + inID(what), "did." + inID(what)} {
			if !r.says(id) {
				t.Errorf("no message %s", id)
			}
		}
		if d.asks && (!r.says("ask."+inID(what)) || !r.says("ask."+inID(what)+"_what")) {
			t.Errorf("%s asks without words", what)
		}
	}
}

// TestOperator_Followers: the page lists the API servers that follow, and a press that ends something has waited for them.
func TestOperator_Followers(t *testing.T) {
	s := newSite(t)
	b := s.operator()
	b.open("/operator/followers")
	b.sees(http.StatusOK, "No API server is connected")
	if _, err := s.portal.people.CreateAccount(context.Background(), system, people.NewAccount{ID: "nils", Name: "Nils"}); err != nil {
		t.Fatal(err)
	}
	id := s.follower()
	s.waits(func() {
		b.post("/operator/do/suspend-user", url.Values{"id": {"nils"}}, s.url)
		b.sees(http.StatusOK, "is suspended, from this moment on")
	})
	b.open("/operator/followers")
	b.sees(http.StatusOK, id, "…-the-api", "not every API server had acknowledged it")
}
