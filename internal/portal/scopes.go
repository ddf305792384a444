package portal

import (
	"slices"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// spoken picks a text in the reader's language, then in its base language, then in English.
func spoken(texts map[string]string, language string) string {
	base, _, _ := strings.Cut(language, "-")
	for _, l := range []string{language, base, "en"} {
		if s := texts[l]; s != "" {
			return s
		}
	}
	return ""
}

// describe puts scopes into words, in the catalogue's order. A scope that the catalogue has no longer means nothing to
// any API server and is left out.
func describe(c *oauth.Catalogue, language string, names oauth.ScopeSet) []askedScope {
	var out []askedScope
	for _, s := range c.Scopes {
		if !names.Has(s.Name) {
			continue
		}
		view := scopeView{Name: s.Name, Sentence: spoken(s.Text, language), Risks: s.Touches}
		if len(view.Risks) == 0 && s.Risk == "high" {
			view.Risks = []string{"high"}
		}
		group := s.Group
		if i := slices.IndexFunc(c.Groups, func(g oauth.ScopeGroup) bool { return g.ID == s.Group }); i >= 0 {
			group = spoken(c.Groups[i].Title, language)
		}
		out = append(out, askedScope{view, group, s.Verb == "change"})
	}
	return out
}
