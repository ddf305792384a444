package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

// browser drives pages as a person without JavaScript does: it keeps cookies, follows redirects inside the issuer's
// origin, and never leaves it.
type browser struct {
	origin  *url.URL
	stores  []string // ids, by which the consent form's store checkboxes are known
	client  *http.Client
	history []*page // the last one is on screen
}

// page is an answer on screen, with the address where the browser was last sent if that lies elsewhere.
type page struct {
	*answer
	doc  *html.Node
	away *url.URL
}

func newBrowser(issuer string, stores []string) (*browser, error) {
	origin, err := url.Parse(issuer)
	if err != nil {
		return nil, err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &browser{origin: origin, stores: stores, client: &http.Client{
		Jar:           jar,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func (b *browser) page() (*page, error) {
	if len(b.history) == 0 {
		return nil, errors.New("no page is open")
	}
	return b.history[len(b.history)-1], nil
}

func (b *browser) back() error {
	if len(b.history) < 2 {
		return errors.New("there is no page to go back to")
	}
	b.history = b.history[:len(b.history)-1]
	return nil
}

func (b *browser) sameOrigin(u *url.URL) bool {
	return u.Scheme == b.origin.Scheme && u.Host == b.origin.Host
}

// open goes to a path under the issuer, as from the address bar.
func (b *browser) open(ctx context.Context, target string) error {
	if !strings.HasPrefix(target, "http") {
		target = strings.TrimSuffix(b.origin.String(), "/") + target
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Sec-Fetch-Site", "none")
	return b.load(req)
}

// load sends a request and follows redirects while they stay inside. It refuses a cookie that scripts or other sites
// could use, and what a browser would not carry through: a redirect after a form that leaves the origin (CSP
// form-action), and one that repeats a form's body (307, 308).
func (b *browser) load(req *http.Request) error {
	posted := req.Method == http.MethodPost
	for range 10 {
		req.Header.Set("User-Agent", "Mozilla/5.0 (grantway-wire)")
		req.Header.Set("Accept", "text/html")
		req.Header.Set("Accept-Language", "en")
		req.Header.Set("Sec-Fetch-Mode", "navigate")
		req.Header.Set("Sec-Fetch-Dest", "document")
		resp, err := b.client.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		for _, c := range resp.Cookies() {
			if err := b.checkCookie(c); err != nil {
				return err
			}
		}
		p := &page{answer: &answer{url: req.URL, status: resp.StatusCode, header: resp.Header, body: body}}
		location := resp.Header.Get("Location")
		if resp.StatusCode < 300 || resp.StatusCode > 399 || location == "" {
			if p.doc, err = html.Parse(strings.NewReader(string(body))); err != nil {
				return err
			}
			b.history = append(b.history, p)
			return nil
		}
		next, err := req.URL.Parse(location)
		if err != nil {
			return err
		}
		switch inside := b.sameOrigin(next); {
		case posted && !inside:
			return fmt.Errorf("a form ended in a redirect that leaves the origin: %s", location)
		case posted && (resp.StatusCode == http.StatusTemporaryRedirect || resp.StatusCode == http.StatusPermanentRedirect):
			return fmt.Errorf("status %d repeats a form's body", resp.StatusCode)
		case !inside:
			p.away, p.doc = next, &html.Node{Type: html.DocumentNode}
			b.history = append(b.history, p)
			return nil
		}
		site := req.Header.Get("Sec-Fetch-Site")
		if req, err = http.NewRequestWithContext(req.Context(), http.MethodGet, next.String(), nil); err != nil {
			return err
		}
		req.Header.Set("Sec-Fetch-Site", site)
	}
	return errors.New("redirected ten times")
}

// checkCookie holds every cookie against DESIGN decision 11.
func (b *browser) checkCookie(c *http.Cookie) error {
	https := b.origin.Scheme == "https"
	if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Secure != https || strings.HasPrefix(c.Name, "__Host-") != https {
		return fmt.Errorf("cookie %s: HttpOnly %t, Secure %t, SameSite %d", c.Name, c.HttpOnly, c.Secure, c.SameSite)
	}
	return nil
}

// signIn fills in the sign-in form if the page on screen is one.
func (b *browser) signIn(ctx context.Context, who Person) error {
	p, err := b.page()
	if err != nil {
		return err
	}
	f := p.form(func(f *form) bool { return f.field("type", "password") != nil })
	if f == nil {
		return nil
	}
	email := f.field("type", "email")
	if email == nil {
		return errors.New("the sign-in form has no input of type email")
	}
	values := f.values(f.buttons[0])
	values.Set(attr(email, "name"), who.Email)
	values.Set(attr(f.field("type", "password"), "name"), who.Password)
	return b.submit(ctx, p, f, f.buttons[0], values, "")
}

// press presses the button with a label; stores, if not nil, is what is ticked among the stores when it is pressed,
// offered or not, and header lists each `Name:value` that a forger would set, with commas between them; `Name:!absent`
// takes a header away.
func (b *browser) press(ctx context.Context, label, near string, stores []string, header string) error {
	p, err := b.page()
	if err != nil {
		return err
	}
	f, button := p.button(label, near)
	if button == nil {
		return fmt.Errorf("no button is called %q", label)
	}
	values := f.values(button)
	if stores != nil {
		name := ""
		for _, n := range f.inputs {
			if attr(n, "type") == "checkbox" && slices.Contains(b.stores, attr(n, "value")) {
				name = attr(n, "name")
			}
		}
		if name == "" {
			return errors.New("the form has no checkbox whose value is a store's id")
		}
		values[name] = stores
	}
	return b.submit(ctx, p, f, button, values, header)
}

// submit sends a form as the page would, and with header as a forger would.
func (b *browser) submit(ctx context.Context, p *page, f *form, button *html.Node, values url.Values, header string) error {
	action, method := attr(f.node, "action"), attr(f.node, "method")
	if a := attr(button, "formaction"); a != "" {
		action = a
	}
	u, err := p.url.Parse(action)
	if err != nil {
		return err
	}
	if !b.sameOrigin(u) {
		return fmt.Errorf("the form goes to %s, another origin", u)
	}
	var req *http.Request
	if strings.EqualFold(method, http.MethodPost) {
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(values.Encode()))
	} else {
		u.RawQuery = values.Encode()
		req, err = http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	}
	if err != nil {
		return err
	}
	if req.Method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", b.origin.Scheme+"://"+b.origin.Host)
	}
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	for forged := range strings.SplitSeq(header, ",") {
		switch name, value, _ := strings.Cut(forged, ":"); {
		case name == "":
		case name == "Cookie" && value == "!absent":
			jar := b.client.Jar
			b.client.Jar = nil
			defer func() { b.client.Jar = jar }()
		case value == "!absent":
			req.Header.Del(name)
		default:
			req.Header.Set(name, value)
		}
	}
	return b.load(req)
}

// returned is the address at which the app gets control back: the target of a redirect that answered a GET, or of the
// page "Returning you to APP", whose meta refresh and visible link must agree.
func (p *page) returned() (*url.URL, error) {
	if p.away != nil {
		return p.away, nil
	}
	var refresh string
	links := map[string]bool{}
	walk(p.doc, func(n *html.Node) {
		switch {
		case n.Data == "meta" && strings.EqualFold(attr(n, "http-equiv"), "refresh"):
			if _, target, ok := strings.Cut(attr(n, "content"), ";"); ok {
				target = strings.TrimSpace(target)
				if len(target) > 4 && strings.EqualFold(target[:4], "url=") {
					refresh = strings.Trim(target[4:], `'"`)
				}
			}
		case n.Data == "a":
			links[attr(n, "href")] = true
		}
	})
	if refresh == "" {
		return nil, errors.New("the page does not return to the app: no meta refresh")
	}
	if !links[refresh] {
		return nil, fmt.Errorf("no link on the page leads where its meta refresh leads, %s", refresh)
	}
	return url.Parse(refresh)
}
