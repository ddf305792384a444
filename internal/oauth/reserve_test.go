package oauth_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// A form with a reserved id makes one app, however often and however close
// together it is posted, and only for the user that it was made for.
func TestClient_ReservedIDMakesOneApp(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	sealed, err := w.ReserveID("jonas")
	w.must(err)
	reserved, err := w.OpenReserved(sealed, "jonas")
	w.must(err)
	_, err = w.OpenReserved(sealed, "mallory")
	wantReason(t, err, oauth.RequestExpired)
	for _, forged := range []string{"", "x", reserved.ClientID(), sealed[:len(sealed)-4] + "AAAA"} {
		_, err = w.OpenReserved(forged, "jonas")
		wantReason(t, err, oauth.RequestExpired)
	}

	form := oauth.ClientForm{Reserved: reserved, Name: "Shelfmate", Type: oauth.Confidential, Profile: oauth.Exchange,
		Redirects: []string{"https://shelfmate.example/cb"}, Scopes: []oauth.ClientScope{{Name: w.Catalogue().Scopes[0].Name}}}
	const posts = 8
	errs := make([]error, posts)
	var group sync.WaitGroup
	for i := range posts {
		group.Go(func() { _, _, errs[i] = w.CreateClient(ctx, oauth.Actor{Kind: oauth.AsUser, ID: "jonas"}, form) })
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		fields, _ := errors.AsType[oauth.FieldErrors](err)
		switch {
		case err == nil:
			won++
		case fields["id"] == nil || fields["id"].Reason != oauth.IDTaken:
			t.Errorf("a repeat: %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d posts made the app", won, posts)
	}
	c, err := w.MyClient(ctx, oauth.Actor{Kind: oauth.AsUser, ID: "jonas"}, reserved.ClientID())
	w.must(err)
	if len(c.Secrets) != 1 {
		t.Errorf("%d secrets", len(c.Secrets))
	}
}
