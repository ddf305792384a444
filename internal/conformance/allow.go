package conformance

import (
	"context"
	"fmt"
	"net/url"
)

// Allow is the demo's user with a fresh browser: he opens an app's link, signs in, ticks the stores with these ids, presses
// Allow, and the address at which the app gets control back is returned. An app that he need not be asked about gets
// control back at once.
func (d Demo) Allow(ctx context.Context, link string, stores ...string) (*url.URL, error) {
	var ids []string
	for _, store := range d.Stores {
		ids = append(ids, store.ID)
	}
	web, err := newBrowser(d.Issuer, ids)
	if err != nil {
		return nil, err
	}
	if err := web.open(ctx, link); err != nil {
		return nil, err
	}
	p, err := web.page()
	if err != nil {
		return nil, err
	}
	if p.away != nil { // refused, and told to the app
		return p.away, nil
	}
	if err := web.signIn(ctx, d.User); err != nil {
		return nil, err
	}
	if p, err = web.page(); err != nil {
		return nil, err
	}
	if back, err := p.returned(); err == nil {
		return back, nil
	}
	if err := web.press(ctx, "Allow", "", stores, ""); err != nil {
		return nil, fmt.Errorf("%w\nthe page on screen:\n%s", err, p.answer)
	}
	if p, err = web.page(); err != nil {
		return nil, err
	}
	return p.returned()
}
