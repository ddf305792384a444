package portal

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// A new form shows this many addresses; the rest, up to the most there may be, is folded.
const redirectsShown = 2

// readApp reads the form of an app. The type is what the form chose, or that of the app which is changed.
func readApp(f url.Values, kind string) oauth.ClientForm {
	form := oauth.ClientForm{
		Name: f.Get("name"), Homepage: f.Get("homepage"), Terms: f.Get("terms"), Privacy: f.Get("privacy"),
		Settings: oauth.ClientSettings{Iss: f.Get("iss") != ""},
	}
	switch kind {
	case kindExchange:
		form.Type, form.Profile = oauth.Confidential, oauth.Exchange
	case kindServer:
		form.Type, form.Profile = oauth.Confidential, oauth.Standard
	case kindPublic:
		form.Type, form.Profile = oauth.Public, oauth.Standard
	}
	// Empty rows go, so that a row's number here is the one that it gets when the form is shown again.
	for _, uri := range f["redirect_uri"] {
		if uri = strings.TrimSpace(uri); uri != "" {
			form.Redirects = append(form.Redirects, uri)
		}
	}
	for key, values := range f {
		if name, ok := strings.CutPrefix(key, "scope:"); ok && len(values) == 1 && values[0] != "" {
			form.Scopes = append(form.Scopes, oauth.ClientScope{Name: name, Required: values[0] == "required"})
		}
	}
	slices.SortFunc(form.Scopes, func(a, b oauth.ClientScope) int { return cmp.Compare(a.Name, b.Name) })
	return form
}

// formOf is the form as an app stands.
func formOf(c *oauth.Client) oauth.ClientForm {
	form := oauth.ClientForm{
		Name: c.Name, Type: c.Type, Profile: c.Profile, Scopes: c.Scopes,
		Homepage: c.Settings.Homepage, Terms: c.Settings.Terms, Privacy: c.Settings.Privacy, Settings: c.Settings,
	}
	for _, uri := range c.Redirects {
		form.Redirects = append(form.Redirects, string(uri))
	}
	return form
}

// fill shows a form as it was typed, with what is wrong beside it.
func (v *appFormView) fill(c *oauth.Catalogue, language string, form oauth.ClientForm, errs map[string]string) {
	v.Name, v.Homepage, v.Privacy, v.Terms, v.Iss = form.Name, form.Homepage, form.Privacy, form.Terms, form.Settings.Iss
	v.Errors = errs
	for i := range max(oauth.MaxRedirects, len(form.Redirects)) {
		row := redirectRow{ID: "redirect-" + strconv.Itoa(i), Number: i + 1}
		if i < len(form.Redirects) {
			row.Value = form.Redirects[i]
		}
		row.Problem = fieldProblem{row.ID, errs[row.ID]}
		if i < max(redirectsShown, len(form.Redirects)+1) {
			v.Redirect = append(v.Redirect, row)
		} else {
			v.Spare = append(v.Spare, row)
		}
	}
	v.Groups = scopeGroups(c, language, form.Scopes)
	add := func(field, label string, number int) {
		if m := errs[field]; m != "" {
			v.Mistakes = append(v.Mistakes, mistake{field, label, m, number})
		}
	}
	add("name", "form.name", 0)
	add("kind", "form.kind", 0)
	for _, row := range slices.Concat(v.Redirect, v.Spare) {
		add(row.ID, "form.redirect", row.Number)
	}
	add("scope", "form.scopes", 0)
	add("homepage", "form.homepage", 0)
	add("privacy", "form.privacy", 0)
	add("terms", "form.terms", 0)
}

// scopeGroups lays the whole catalogue out for choosing.
func scopeGroups(c *oauth.Catalogue, language string, chosen []oauth.ClientScope) []scopeGroupRow {
	var groups []scopeGroupRow
	for _, g := range c.Groups {
		row := scopeGroupRow{ID: g.ID, Title: spoken(g.Title, language)}
		for _, s := range scopeRows(c, language, chosen, true) {
			if c.Scope(s.Name).Group != g.ID {
				continue
			}
			if s.Use != "" {
				row.Asked++
			}
			row.Scopes = append(row.Scopes, s)
		}
		if len(row.Scopes) > 0 {
			groups = append(groups, row)
		}
	}
	return groups
}

// scopeRows puts scopes into words: those that are chosen, or all.
func scopeRows(c *oauth.Catalogue, language string, chosen []oauth.ClientScope, all bool) []scopeRow {
	var names []string
	use := map[string]string{}
	for _, s := range chosen {
		use[s.Name] = "optional"
		if s.Required {
			use[s.Name] = "required"
		}
		names = append(names, s.Name)
	}
	if all {
		for _, s := range c.Scopes {
			names = append(names, s.Name)
		}
	}
	var rows []scopeRow
	for _, s := range describe(c, language, oauth.Scopes(names...)) {
		rows = append(rows, scopeRow{s.scopeView, "say-" + s.Name, use[s.Name]})
	}
	return rows
}

// mistakes maps what the server says of a form to message ids by element id. It returns nil if err is something else. A
// reason that is new to this page still gets a sentence.
func mistakes(err error, says func(message string) bool) map[string]string {
	fields, ok := errors.AsType[oauth.FieldErrors](err)
	if !ok {
		return nil
	}
	out := map[string]string{}
	for field, e := range fields {
		id, index, _ := strings.Cut(strings.TrimSuffix(field, "]"), "[")
		message := "mistake." + string(e.Reason)
		switch id {
		case "redirect_uri":
			id = "redirect-" + index
		case "type":
			id = "kind"
		case "name", "scope", "homepage", "terms", "privacy":
		default:
			id = "name"
		}
		if e.Reason == oauth.FieldRequired {
			kind, _, _ := strings.Cut(id, "-")
			message = "mistake." + kind + "_empty"
		}
		if !says(message) {
			message = "mistake.other"
		}
		out[id] = message
	}
	return out
}

// posted makes a handler of a form. Nothing that was typed into the form of a new app is lost if the session has ended
// meanwhile; of the others, whoever signs in again is told that nothing was changed.
func (p *Portal) posted(h func(http.ResponseWriter, *http.Request, *visitor)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := p.visitor(r)
		switch {
		case err != nil:
			p.fail(w, r, err)
			return
		case v != nil:
			h(w, r, v)
			return
		}
		f, ok := p.form(w, r, smallForm)
		if !ok {
			return
		}
		back := r.URL.EscapedPath()
		switch {
		case back == "/developer/new":
			if why := p.keepForm(w, f, func(name string) bool { return name != "reserved" }); why == whyKept {
				p.goTo(w, signInBecause(why, back))
				return
			}
		case !strings.HasSuffix(back, "/edit"):
			back = parent(back)
		}
		p.goTo(w, signInBecause(whyEnded, back+"?done=signed_out"))
	}
}
