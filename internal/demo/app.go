package demo

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

//go:embed app.html app.css
var appFiles embed.FS

var appPage = template.Must(template.ParseFS(appFiles, "app.html"))

// ExampleApp is the third-party app: Parcel Pilot, by somebody who only has the
// published pages. It knows an issuer, a store API, and its own id and secret.
type ExampleApp struct {
	Issuer, StoreAPI string
	Self             string // its own address
	App              App

	http     *http.Client
	mu       sync.Mutex
	visitors map[string]*visitor
}

// visitor is what the app keeps of a browser.
type visitor struct {
	state string // of the request under way
	key   string // the JWT API key
}

const (
	visitorCookie = "parcel_pilot"
	visitorsMax   = 1000
	userAgent     = "ParcelPilot/1.0"
)

// Handler serves the app.
func (a *ExampleApp) Handler() http.Handler {
	a.visitors = map[string]*visitor{}
	a.http = &http.Client{Timeout: 10 * time.Second}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { a.home(w, r, http.StatusOK, "") })
	mux.HandleFunc("GET /connect", a.connect)
	mux.HandleFunc("GET /callback", a.callback)
	mux.HandleFunc("GET /app.css", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, appFiles, "app.css") })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// visit finds the browser's visitor, or makes one.
func (a *ExampleApp) visit(w http.ResponseWriter, r *http.Request) *visitor {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, err := r.Cookie(visitorCookie); err == nil {
		if v := a.visitors[c.Value]; v != nil {
			return v
		}
	}
	if len(a.visitors) >= visitorsMax {
		clear(a.visitors)
	}
	id, v := rand.Text(), &visitor{}
	a.visitors[id] = v
	http.SetCookie(w, &http.Cookie{Name: visitorCookie, Value: id, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	return v
}

type appView struct {
	Platform  string
	Connected bool
	Ended     bool
	Problem   string
	Stores    []store
	Manage    string
}

func (a *ExampleApp) show(w http.ResponseWriter, status int, view appView) {
	view.Platform, view.Manage = Brand, a.Issuer+"/connected-apps"
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	appPage.Execute(w, view)
}

// home shows where a visitor stands, with what went wrong just now, if anything.
// It reads the stores with the key, anew at each visit: after a revocation the
// next call is refused.
func (a *ExampleApp) home(w http.ResponseWriter, r *http.Request, status int, problem string) {
	v := a.visit(w, r)
	a.mu.Lock()
	key := v.key
	a.mu.Unlock()
	if key == "" {
		a.show(w, status, appView{Problem: problem})
		return
	}
	list, code, err := a.stores(r.Context(), key)
	switch {
	case code == "BadToken":
		a.mu.Lock()
		v.key = ""
		a.mu.Unlock()
		a.show(w, status, appView{Ended: true, Problem: problem})
	case code == "AccessDenied": // the last store was taken from it
		a.show(w, status, appView{Connected: true, Problem: err.Error()})
	case err != nil:
		a.show(w, http.StatusBadGateway, appView{Connected: true, Problem: err.Error()})
	default:
		a.show(w, status, appView{Connected: true, Stores: list, Problem: problem})
	}
}

// connect is step 1 of the published flow (seed komerza-exchange).
func (a *ExampleApp) connect(w http.ResponseWriter, r *http.Request) {
	v := a.visit(w, r)
	a.mu.Lock()
	v.state = rand.Text()
	state := v.state
	a.mu.Unlock()
	q := url.Values{"client_id": {a.App.ClientID}, "redirect_uri": {a.Self + "/callback"}, "state": {state}}
	http.Redirect(w, r, a.Issuer+"/auth/authorize?"+q.Encode(), http.StatusSeeOther)
}

// callback is steps 2 and 3.
func (a *ExampleApp) callback(w http.ResponseWriter, r *http.Request) {
	v, q := a.visit(w, r), r.URL.Query()
	a.mu.Lock()
	mine := v.state != "" && q.Get("state") == v.state
	v.state = ""
	a.mu.Unlock()
	switch {
	case !mine:
		a.home(w, r, http.StatusBadRequest, "This answer does not belong to a request that you began here.")
		return
	case q.Get("error") == "access_denied":
		a.home(w, r, http.StatusOK, "You chose not to connect. Nothing new was shared.")
		return
	case q.Get("error") != "":
		a.home(w, r, http.StatusBadGateway, Brand+" did not connect: "+q.Get("error"))
		return
	}
	key, err := a.exchange(r.Context(), q.Get("code"))
	if err != nil {
		a.home(w, r, http.StatusBadGateway, err.Error())
		return
	}
	a.mu.Lock()
	v.key = key
	a.mu.Unlock()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// exchange is the published call: the code in the path, the secret in a header.
func (a *ExampleApp) exchange(ctx context.Context, code string) (string, error) {
	var key string
	_, err := a.call(ctx, a.Issuer+"/oauth2/"+a.App.ClientID+"/exchange/"+url.PathEscape(code),
		http.Header{"X-Client-Secret": {a.App.ClientSecret}}, &key)
	return key, err
}

func (a *ExampleApp) stores(ctx context.Context, key string) (list []store, code string, err error) {
	code, err = a.call(ctx, a.StoreAPI+"/stores", http.Header{"Authorization": {"Bearer " + key}}, &list)
	return list, code, err
}

// call reads an envelope.
func (a *ExampleApp) call(ctx context.Context, address string, header http.Header, into any) (code string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	req.Header = header
	req.Header.Set("User-Agent", userAgent)
	resp, err := a.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("%s could not be reached", Brand)
	}
	defer resp.Body.Close()
	var e struct {
		Success bool            `json:"success"`
		Message string          `json:"message"`
		Code    string          `json:"code"`
		Data    json.RawMessage `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil {
		return "", fmt.Errorf("%s answered with something that is no JSON (status %d)", Brand, resp.StatusCode)
	}
	if !e.Success {
		return e.Code, fmt.Errorf("%s answered %d %s: %s", Brand, resp.StatusCode, e.Code, e.Message)
	}
	return "", json.Unmarshal(e.Data, into)
}
