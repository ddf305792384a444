package portal

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// operatorEvents shows what happened, newest first.
func (p *Portal) operatorEvents(w http.ResponseWriter, r *http.Request, o *operator) {
	q := r.URL.Query()
	filter := oauth.EventFilter{ClientID: strings.TrimSpace(q.Get("app")), UserID: strings.TrimSpace(q.Get("user")), GrantID: strings.TrimSpace(q.Get("grant")),
		Kind: oauth.Kind(strings.TrimSpace(q.Get("kind"))), Before: q.Get("before"), Limit: rowsPerPage + 1}
	events, err := p.server.Events(r.Context(), o.actor(), filter)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view := operatorEventsView{Rail: operatorRail("/operator"), Search: searchView{Action: "/operator", Clear: "/operator", Narrowed: []narrowed{
		{"filter.app", "app", filter.ClientID}, {"filter.user", "user", filter.UserID}, {"filter.grant", "grant", filter.GrantID}, {"filter.kind", "kind", string(filter.Kind)}}}}
	kept := queryOf("app", filter.ClientID, "user", filter.UserID, "grant", filter.GrantID, "kind", string(filter.Kind))
	if filter.Before != "" {
		view.Pager.Newer = strings.TrimSuffix("/operator?"+kept.Encode(), "?")
	}
	if len(events) > rowsPerPage {
		events = events[:rowsPerPage]
		kept.Set("before", events[len(events)-1].ID)
		view.Pager.Older = "/operator?" + kept.Encode()
	}
	names := p.names(r, o)
	for i := range events {
		row, err := p.eventRow(&events[i], names)
		if err != nil {
			p.fail(w, r, err)
			return
		}
		view.Rows = append(view.Rows, row)
	}
	p.operatorPage(w, r, o, http.StatusOK, "operator_events", view)
}

// EventKinds lists the kinds of events, which are those that the operator's pages have words for.
func EventKinds() ([]oauth.Kind, error) {
	content, err := files.ReadFile("messages/operator.en.json")
	if err != nil {
		return nil, err
	}
	var say map[string]any
	if err := json.Unmarshal(content, &say); err != nil {
		return nil, err
	}
	var all []oauth.Kind
	for id := range say {
		if kind, ok := strings.CutPrefix(id, "event."); ok && strings.Contains(kind, ".") {
			all = append(all, oauth.Kind(kind))
		}
	}
	slices.Sort(all)
	return all, nil
}

func (p *Portal) eventRow(e *oauth.Event, names *names) (operatorEvent, error) {
	row := operatorEvent{ID: e.ID, At: e.At, Words: "event." + string(e.Kind), Kind: string(e.Kind), Request: e.Request, Payload: indented(e.Payload)}
	if !p.pages.says(row.Words) {
		row.Words = "event.other"
	}
	for _, end := range []string{".revoked", ".suspended", ".deleted", ".replayed", ".refused", ".denied", ".dropped", ".removed", ".cut"} {
		row.Bad = row.Bad || strings.HasSuffix(row.Kind, end)
	}
	kind, id, _ := strings.Cut(e.Actor, ":")
	var err error
	switch oauth.ActorKind(kind) {
	case oauth.AsUser, oauth.AsOperator:
		row.Who, err = names.subject("user", id)
		row.Who.Label = "actor." + kind
	case oauth.AsClient:
		row.Who, err = names.subject("client", id)
		row.Who.Label = "actor.client"
	case oauth.AsCommand, oauth.AsSystem:
		row.Actor = "actor." + kind
	default:
		row.Actor = "actor.nobody"
	}
	for _, s := range [][2]string{{"client", e.ClientID}, {"user", e.UserID}, {"store", e.StoreID}, {"grant", e.GrantID}} {
		if s[1] == "" || err != nil || s[1] == id && row.Who.Href != "" { // who did it is named already
			continue
		}
		var v subjectView
		v, err = names.subject(s[0], s[1])
		row.Subjects = append(row.Subjects, v)
	}
	return row, err
}

// subject names a thing and links to where it is listed.
func (n *names) subject(kind, id string) (subjectView, error) {
	switch kind {
	case "client":
		c, err := n.app(id)
		if err != nil {
			return subjectView{}, err
		}
		return subjectView{"events.app", c.Name, with("/operator/apps", "q", id), id}, nil
	case "user":
		u, err := n.user(id)
		return subjectView{"events.user", u.Text, u.Href, id}, err
	case "store":
		return subjectView{"events.store", id, with("/operator/grants", "store", id), id}, nil
	}
	return subjectView{"events.grant", id, with("/operator", "grant", id), id}, nil
}

func indented(payload json.RawMessage) string {
	if len(payload) == 0 {
		return ""
	}
	var b bytes.Buffer
	if err := json.Indent(&b, payload, "", "  "); err != nil {
		return string(payload)
	}
	return b.String()
}
