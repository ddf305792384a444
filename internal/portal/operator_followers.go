package portal

import (
	"net/http"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// operatorFollowersView is the page of the API servers that follow revocations.
type operatorFollowersView struct {
	Rail   railView
	Effect *effectView // nil: nobody has waited for one on this node
	Rows   []operatorFollower
}

// effectView is the last revocation that somebody waited for.
type effectView struct {
	At  time.Time
	Say string // message id
	MS  int
}

type operatorFollower struct {
	API, Instance, Node string
	Behind              int //  events that it has not acknowledged
	MS                  int //  between that an event was known here and that it was acknowledged, of late
	Seen                time.Time
	Ago                 int // seconds
}

// operatorFollowers lists the API servers that follow the feed, and how far they have come.
func (p *Portal) operatorFollowers(w http.ResponseWriter, r *http.Request, o *operator) {
	list, err := p.server.Followers(r.Context(), o.actor())
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view := operatorFollowersView{Rail: operatorRail("/operator/followers")}
	if e, at := p.server.LastEffect(); !at.IsZero() {
		view.Effect = effectOf(e, at)
	}
	now := p.server.FeedSeq()
	for _, f := range list {
		row := operatorFollower{API: f.API, Instance: short(f.Instance), Node: short(f.Node), MS: int(f.Lag.Milliseconds()), Seen: f.Seen, Ago: max(0, int(p.server.Now().Sub(f.Seen).Seconds()))}
		if f.Epoch != 0 {
			row.Behind = int(max(0, now-f.Seq))
		}
		view.Rows = append(view.Rows, row)
	}
	p.operatorPage(w, r, o, http.StatusOK, "operator_followers", view)
}

func effectOf(e oauth.Effect, at time.Time) *effectView {
	v := &effectView{At: at, Say: "followers.effect", MS: int(e.After.Milliseconds())}
	switch {
	case !e.Everywhere:
		v.Say = "followers.effect_late"
	case e.Followers == 0:
		v.Say = "followers.effect_none"
	}
	return v
}

// short is the end of an id, which is what differs.
func short(id string) string {
	const letters = 8
	if len(id) > letters {
		return "…" + id[len(id)-letters:]
	}
	return id
}
