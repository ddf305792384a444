package portal

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"time"
)

// What was ticked on a consent page whose session was over goes on in a cookie, past the sign-in. No address carries it,
// because an app makes the addresses of requests and could tick for people. It is dropped where it is too large.
const (
	ticksLife = 10 * time.Minute // as long as a request may wait
	mostTicks = 3 << 10          // bytes; browsers keep 4 KiB
)

func (p *Portal) ticksCookie(value string, life time.Duration) *http.Cookie {
	return &http.Cookie{Name: p.cookie + "-ticks", Value: value, Path: "/", MaxAge: int(life.Seconds()), HttpOnly: true, Secure: p.https, SameSite: http.SameSiteLaxMode}
}

// ofRequest binds ticks to the request that they answer.
func ofRequest(next string) string {
	sum := sha256.Sum256([]byte(next))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (p *Portal) keepTicks(w http.ResponseWriter, next string, f url.Values) {
	ticks := url.Values{"of": {ofRequest(next)}, "store": f["store"], "scope": f["scope"]}.Encode()
	if len(ticks) <= mostTicks {
		http.SetCookie(w, p.ticksCookie(ticks, ticksLife))
	}
}

// takeTicks returns what was ticked for this request before, once; nil when nothing was. The ids are the browser's: what
// the visitor may not give is not ticked, and the decision checks them again.
func (p *Portal) takeTicks(w http.ResponseWriter, r *http.Request, next string) url.Values {
	cookie, err := r.Cookie(p.cookie + "-ticks")
	if err != nil {
		return nil
	}
	http.SetCookie(w, p.ticksCookie("", -time.Second))
	ticks, err := url.ParseQuery(cookie.Value)
	if err != nil || ticks.Get("of") != ofRequest(next) {
		return nil
	}
	return ticks
}
