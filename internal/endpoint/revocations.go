package endpoint

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strconv"

	"github.com/grantway/grantway/internal/oauth"
)

// FeedPath is where followers ask.
const FeedPath = "/revocations"

// feedPage is what a follower is told. All members are always there.
type feedPage struct {
	Epoch   int64        `json:"epoch"`
	Seq     int64        `json:"seq"`
	More    bool         `json:"more"`
	Changes []feedChange `json:"changes"`
	Rules   []feedRule   `json:"rules"`
}

type feedChange struct {
	Seq   int64  `json:"seq"`
	List  string `json:"list"`
	Index int64  `json:"idx"`
	Value int64  `json:"value"`
}

type feedRule struct {
	Seq    int64  `json:"seq"`
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Before int64  `json:"before"`
	Value  int64  `json:"value"`
}

// revocations is GET /revocations, for APIs: what happened to their keys. The answer
// is held while nothing does. 204 says that nothing has, as of now; a node that does
// not know answers 503, so that a verifier's lease ends and not the door opens.
// DELETE says that the instance follows no more.
func (h *handler) revocations(w http.ResponseWriter, r *http.Request) {
	secure(w)
	if !allow(w, r, http.MethodGet, http.MethodDelete) {
		return
	}
	auth, err := credentials(r, nil)
	if err != nil {
		h.refused(w, r, h.charge(r, "", err), http.StatusUnauthorized, "")
		return
	}
	q, malformed := feedQuery(r)
	if malformed != nil {
		if h.proved(w, r, auth) {
			h.refused(w, r, malformed, http.StatusUnauthorized, "")
		}
		return
	}
	if r.Method == http.MethodDelete {
		if err := h.server.Unfollow(r.Context(), auth, q.Instance); err != nil {
			h.apiRefused(w, r, err, auth.ID)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if room, ok := w.(interface{ Holding() }); ok {
		q.Holding = room.Holding
	}
	page, err := h.server.Revocations(r.Context(), auth, q)
	switch {
	case err != nil:
		h.apiRefused(w, r, err, auth.ID)
	case page == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		answer := feedPage{page.Epoch, page.Seq, page.More, make([]feedChange, len(page.Changes)), make([]feedRule, len(page.Rules))}
		for i, c := range page.Changes {
			answer.Changes[i] = feedChange{c.Seq, oauth.ListID(c.Index), c.Index & (1<<oauth.IndexBits - 1), int64(c.Value)}
		}
		for i, rule := range page.Rules {
			answer.Rules[i] = feedRule{rule.Seq, string(rule.Kind), rule.Subject, rule.Before, int64(rule.Value)}
		}
		writeJSON(w, http.StatusOK, answer)
	}
}

// proved reports whether an API has proved itself, and answers if not. Nobody else is
// told what is wrong with a question.
func (h *handler) proved(w http.ResponseWriter, r *http.Request, auth oauth.ClientAuth) bool {
	err := h.server.ProveAPI(r.Context(), auth)
	if err != nil {
		h.apiRefused(w, r, err, auth.ID)
	}
	return err == nil
}

// apiRefused prints the refusal of an API, charged to its address if it has not proved
// itself: all that follow behind one address hear at the same time that they must begin
// anew, and a 429 would not tell them.
func (h *handler) apiRefused(w http.ResponseWriter, r *http.Request, err error, id string) {
	if oauth.AsError(err).Anonymous() {
		err = h.charge(r, id, err)
	}
	h.refused(w, r, err, http.StatusUnauthorized, "")
}

var instances = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// feedQuery reads the question: after and epoch, or neither, and instance, each once.
func feedQuery(r *http.Request) (q oauth.FeedQuery, err error) {
	query := r.URL.Query()
	number := func(name string) int64 {
		n, bad1 := strconv.ParseInt(query.Get(name), 10, 64)
		if err == nil && (bad1 != nil || n < 1) {
			err = bad(oauth.ParamMalformed, name, "The parameter "+name+" must be a number, as the last answer had it.")
		}
		return n
	}
	for name, values := range query {
		if len(values) > 1 {
			return q, bad(oauth.ParamRepeated, name, "A parameter may be sent only once.")
		}
	}
	if query.Has("after") || query.Has("epoch") {
		q.After, q.Epoch = number("after"), number("epoch")
	}
	// Whoever waits for an event to be in effect counts followers by it.
	if q.Instance = query.Get("instance"); err == nil && !instances.MatchString(q.Instance) {
		err = bad(oauth.ParamMalformed, "instance", "The parameter instance names the process that asks: up to 64 letters, digits, - and _.")
	}
	return q, err
}

// statusList is GET /status/{list}: a Token Status List, for every verifier.
func (h *handler) statusList(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodHead && r.Method != http.MethodGet {
		secure(w)
		allow(w, r, http.MethodGet)
		return
	}
	list, err := h.server.StatusList(r.Context(), r.PathValue("list"))
	if errors.Is(err, oauth.ErrNoList) {
		secure(w)
		// Whoever makes ids up costs a question of the database each time.
		if err := h.charge(r, "", oauth.Refuse(oauth.NoSuch)); oauth.ReasonOf(err) == oauth.RateLimited {
			h.refused(w, r, err, http.StatusUnauthorized, "")
			return
		}
		writeJSON(w, http.StatusNotFound, oauthError{Error: string(oauth.InvalidRequest), Description: "There is no such status list."})
		return
	}
	if err != nil {
		secure(w)
		h.refused(w, r, err, http.StatusUnauthorized, "")
		return
	}
	head := w.Header()
	head.Set("Content-Type", "application/statuslist+jwt") // Token Status List, 8.1
	head.Set("Cache-Control", "no-store")                  // a verifier that follows the feed needs the one of now
	head.Set("Access-Control-Allow-Origin", "*")
	head.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	w.Write([]byte(list)) // the client went away: nothing is left to be done
}

// seen is POST /revocations/seen, for APIs: which grants' keys they saw.
func (h *handler) seen(w http.ResponseWriter, r *http.Request) {
	secure(w)
	if !allow(w, r, http.MethodPost) {
		return
	}
	auth, err := credentials(r, nil)
	if err != nil {
		h.refused(w, r, h.charge(r, "", err), http.StatusUnauthorized, "")
		return
	}
	if !h.proved(w, r, auth) {
		return
	}
	if err := h.reports.admit(auth.ID); err != nil {
		h.refused(w, r, err, http.StatusUnauthorized, "")
		return
	}
	var report struct {
		Grants []string `json:"grants"`
	}
	const most = oauth.SeenMax * 64 // bytes
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(&report); err != nil {
		h.refused(w, r, bad(oauth.ParamMalformed, "grants", "Send a JSON object whose one member, grants, lists the ids of at most 10,000 grants."), http.StatusUnauthorized, "")
		return
	}
	if err := h.server.Seen(r.Context(), auth, report.Grants); err != nil {
		h.apiRefused(w, r, err, auth.ID)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
