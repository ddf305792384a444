package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func events(w *world) {
	w.test("NoteEvent keeps an event and nothing else", func(w *world) {
		before, epoch, err := w.s.Head(w.ctx)
		w.ok(err)
		for _, e := range []oauth.Event{w.event(oauth.EventSignedIn), {ID: w.id("ev_"), At: w.now, Kind: oauth.EventSignInRefused}} {
			tables := w.dump()
			w.ok(w.s.NoteEvent(w.ctx, e))
			w.noted(issue, e, before)
			after := w.dump()
			delete(tables, "events")
			delete(after, "events")
			w.same("the other tables", after, tables)
		}
		_, now, err := w.s.Head(w.ctx)
		w.ok(err)
		w.same("epoch", now, epoch)
	})
	w.test("the feed goes in order, in parts, without gaps", func(w *world) {
		start, _, err := w.s.Head(w.ctx)
		w.ok(err)
		var want []oauth.Event
		for i := range 5 {
			e := w.event(oauth.EventStorePut)
			w.ok(w.s.PutStore(w.ctx, &oauth.Store{ID: "feed", Status: oauth.Active}, e))
			w.ok(w.s.NoteEvent(w.ctx, w.event(oauth.EventSignedIn)))
			e.Seq = start + int64(i) + 1
			want = append(want, e)
		}
		got, err := w.s.FeedAfter(w.ctx, start, 100)
		w.ok(err)
		w.same("all", got, want)
		got, err = w.s.FeedAfter(w.ctx, start+1, 2)
		w.ok(err)
		w.same("a part", got, want[1:3])
		got, err = w.s.FeedAfter(w.ctx, start+5, 2)
		w.ok(err)
		w.same("at the head", len(got), 0)
	})
	w.test("what is outside the feed goes by id, in parts", func(w *world) {
		var want []oauth.Event
		var first string
		for range 3 {
			e := w.event(oauth.EventSignedIn)
			w.ok(w.s.NoteEvent(w.ctx, e))
			w.ok(w.s.PutStore(w.ctx, &oauth.Store{ID: "outside", Status: oauth.Active}, w.event(oauth.EventStorePut)))
			if want = append(want, e); first == "" {
				first = e.ID
			}
		}
		got, err := w.s.EventsOutside(w.ctx, first, 100)
		w.ok(err)
		w.same("after the first", got, want[1:])
		got, err = w.s.EventsOutside(w.ctx, first[:len(first)-1], 1)
		w.ok(err)
		w.same("from before it", len(got) == 1 && got[0].ID <= first, true)
	})
	w.test("events are found by app, user and grant, newest first", func(w *world) {
		var ids []string
		for i := range 6 {
			e := w.event(oauth.EventSignedIn)
			e.ClientID, e.UserID, e.GrantID = fmt.Sprint("find-c", i%2), fmt.Sprint("find-u", i%3), fmt.Sprint("find-g", i)
			w.ok(w.s.NoteEvent(w.ctx, e))
			ids = append(ids, e.ID)
		}
		for _, c := range []struct {
			f    oauth.EventFilter
			want []string
		}{
			{oauth.EventFilter{ClientID: "find-c0", Limit: 10}, []string{ids[4], ids[2], ids[0]}},
			{oauth.EventFilter{UserID: "find-u1", Limit: 10}, []string{ids[4], ids[1]}},
			{oauth.EventFilter{ClientID: "find-c0", UserID: "find-u1", Limit: 10}, []string{ids[4]}},
			{oauth.EventFilter{GrantID: "find-g5", Limit: 10}, []string{ids[5]}},
			{oauth.EventFilter{ClientID: "find-c0", Before: ids[4], Limit: 1}, []string{ids[2]}},
			{oauth.EventFilter{Limit: 2}, []string{ids[5], ids[4]}},
			{oauth.EventFilter{Before: ids[0], ClientID: "find-c0", Limit: 2}, nil},
		} {
			list, err := w.s.Events(w.ctx, c.f)
			w.ok(err)
			var got []string
			for _, e := range list {
				got = append(got, e.ID)
			}
			w.same(fmt.Sprintf("%+v", c.f), got, c.want)
		}
	})
	w.test("events are found by kind, and by the word before its dot", func(w *world) {
		ids := map[oauth.Kind]string{}
		kinds := []oauth.Kind{"find.made", "find.made_up", "finder.made", "find.ended"}
		for _, k := range kinds {
			e := w.event(k)
			e.ClientID = "find-kind"
			w.ok(w.s.NoteEvent(w.ctx, e))
			ids[k] = e.ID
		}
		for asked, want := range map[oauth.Kind][]oauth.Kind{
			"find.made": {"find.made"}, "find": {"find.ended", "find.made_up", "find.made"}, "finder": {"finder.made"}, "fin": nil, "find.": nil, "f%": nil,
			"": {"find.ended", "finder.made", "find.made_up", "find.made"},
		} {
			list, err := w.s.Events(w.ctx, oauth.EventFilter{ClientID: "find-kind", Kind: asked, Limit: 10})
			w.ok(err)
			var got []oauth.Kind
			for _, e := range list {
				got = append(got, e.Kind)
			}
			w.same(string(asked), got, want)
		}
	})
	w.test("what is pending is there until it expires", func(w *world) {
		sealed := []byte{0, 1, 2, 255}
		end := w.now.Add(10*time.Minute + time.Microsecond)
		w.ok(w.s.PutPending(w.ctx, "sel", "authorize", sealed, end))
		got, err := w.s.Pending(w.ctx, "sel", "authorize", end.Add(-time.Microsecond))
		w.ok(err)
		w.same("sealed", got, sealed)
		_, err = w.s.Pending(w.ctx, "sel", "authorize", end)
		w.missing("at its end", err)
		_, err = w.s.Pending(w.ctx, "sel", "device", w.now)
		w.missing("another kind", err)
		_, err = w.s.Pending(w.ctx, "unknown", "authorize", w.now)
		w.missing("unknown", err)
	})
}

// text proves that ids mean the same on every engine, whatever they are made of.
func text(w *world) {
	w.test("ids of any alphabet, and of 255 bytes", func(w *world) {
		for _, id := range []string{"ünïcödé", "用户-一", "😀", "a'b\"c\\d%e_f", "--", "$1", strings.Repeat("x", 255), strings.Repeat("é", 127), "NULL", "0", "Ω≠"} {
			user, store, app := "u"+id, id, "c"+id
			w.must(oauth.EventUserCreated, func(e oauth.Event) (bool, error) {
				return w.s.CreateUser(w.ctx, &oauth.User{ID: user, Kind: oauth.Person}, e)
			})
			w.ok(w.s.PutStore(w.ctx, &oauth.Store{ID: store, Name: id, Status: oauth.Active}, w.event(oauth.EventStorePut)))
			w.member(user, store)
			c := w.newApp()
			c.ID = app
			w.must(oauth.EventClientCreated, w.create(c))
			g, r := w.live(user, app, store)
			st, err := w.s.Standing(w.ctx, g.ID)
			w.ok(err)
			w.same("grant", st.Grant, g)
			w.same("store", st.Members[0].StoreID+st.Members[0].StoreName, id+id)
			w.same("family", w.family(r.Family.ID).ClientID, app)
		}
	})
	w.test("ids differ by case, accents, spaces and composition", func(w *world) {
		ids := []string{"case", "Case", "CASE", "cäse", "ca\u0308se", "case ", "case\u00ad", "caſe", "ｃase"}
		for _, id := range ids {
			w.must(oauth.EventUserCreated, func(e oauth.Event) (bool, error) {
				return w.s.CreateUser(w.ctx, &oauth.User{ID: id, Kind: oauth.Person, Name: id}, e)
			})
		}
		for _, id := range ids {
			u, err := w.s.User(w.ctx, id)
			w.ok(err)
			w.same("user", u.Name, id)
		}
	})
	w.test("text that no id can be is not found, and not an error", func(w *world) {
		for _, id := range []string{"", "\x00", "a\x00b", "\xff", "\xc3\x28", strings.Repeat("x", 100_000)} {
			_, err := w.s.Client(w.ctx, id)
			w.missing(fmt.Sprintf("Client(%.10q)", id), err)
			_, err = w.s.Standing(w.ctx, id)
			w.missing(fmt.Sprintf("Standing(%.10q)", id), err)
			_, _, err = w.s.Code(w.ctx, id)
			w.missing(fmt.Sprintf("Code(%.10q)", id), err)
			_, err = w.s.APIByURI(w.ctx, id)
			w.missing(fmt.Sprintf("APIByURI(%.10q)", id), err)
		}
		for _, query := range []string{"\x00", "\xff"} {
			list, err := w.s.Users(w.ctx, query, oauth.Page{Limit: 10})
			w.ok(err)
			w.same("users", len(list), 0)
		}
	})
	w.test("ids sort by their bytes", func(w *world) {
		user, app := w.person(), w.app()
		ids := []string{"!", "-", "1", "10", "9", "A", "B", "_", "a", "a b", "ab", "b", "é", "一"}
		for i := range ids {
			id := ids[len(ids)-1-i]
			w.ok(w.s.PutStore(w.ctx, &oauth.Store{ID: id, Name: id, Status: oauth.Active}, w.event(oauth.EventStorePut)))
		}
		w.member(user, ids...)
		g, _ := w.granted(user, app, ids...)
		st, err := w.s.Standing(w.ctx, g.ID)
		w.ok(err)
		var got []string
		for _, m := range st.Members {
			got = append(got, m.StoreID)
		}
		w.same("stores of a grant", got, ids)
		list, err := w.s.Memberships(w.ctx, user)
		w.ok(err)
		got = nil
		for _, m := range list {
			got = append(got, m.StoreName)
		}
		w.same("memberships by name", got, ids)
	})
}
