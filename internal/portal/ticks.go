package portal

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"time"
)

// What was filled into a form whose session was over goes on in a cookie, past the sign-in. No address carries it: whoever
// makes an address could fill in the form for somebody else, and proxies write addresses down. It is dropped where it is too
// large.
const (
	formLife = 10 * time.Minute // as long as a request may wait
	mostForm = 3 << 10          // bytes; browsers keep 4 KiB
)

func (p *Portal) formCookie(value string, life time.Duration) *http.Cookie {
	return &http.Cookie{Name: p.cookie + "-form", Value: value, Path: "/", MaxAge: int(life.Seconds()), HttpOnly: true, Secure: p.https, SameSite: http.SameSiteLaxMode}
}

// formFor binds a form to the page that shows it again and to who filled it in: its field of. Only the form knows who that
// was once the session is over, and whoever signs in next in that browser may be somebody else.
func formFor(v *visitor, next string) string {
	sum := sha256.Sum256([]byte(next + "\n" + v.User.ID)) // no line break stands in an address
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// keepForm keeps the named fields for who filled them in, if they fit: the answer is why he is asked to sign in.
func (p *Portal) keepForm(w http.ResponseWriter, f url.Values, keep func(name string) bool) string {
	kept := url.Values{"of": {f.Get("of")}}
	for name, values := range f {
		for _, value := range values {
			if value != "" && name != "of" && keep(name) {
				kept.Add(name, value)
			}
		}
	}
	text := kept.Encode()
	if len(text) > mostForm {
		return whyEnded
	}
	http.SetCookie(w, p.formCookie(text, formLife))
	return whyKept
}

// takeForm returns what this visitor filled in on this page, once; nil when nothing is kept, or somebody else's. It comes from
// the browser: what it asks for is checked as if it were posted.
func (p *Portal) takeForm(w http.ResponseWriter, r *http.Request, v *visitor, next string) url.Values {
	cookie, err := r.Cookie(p.cookie + "-form")
	if err != nil {
		return nil
	}
	http.SetCookie(w, p.formCookie("", -time.Second))
	kept, err := url.ParseQuery(cookie.Value)
	if err != nil || kept.Get("of") != formFor(v, next) {
		return nil
	}
	return kept
}

// ticks are the fields of the consent page that a visitor decides by.
func ticks(name string) bool {
	return name == "store" || name == "shown" || name == "scope" || name == "all_stores"
}
