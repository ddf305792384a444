package demo

import (
	"encoding/json"
	"net/http"

	"github.com/grantway/grantway/resource"
)

// store is a row of the store API's own data.
type store struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	Description  string `json:"description"`
	Domain       string `json:"url"` // subdomain only, as Komerza has it
	CurrencyCode string `json:"currencyCode"`
	delegable    bool
}

var stores = []store{
	{"3f1c2a84-6f0e-4b6a-9b57-0a3c5b1de001", "Nordlicht Keramik", "Stoneware from a studio by the sea.", "nordlicht", "EUR", true},
	{"3f1c2a84-6f0e-4b6a-9b57-0a3c5b1de002", "Fjord & Pine", "Furniture for small rooms.", "fjordandpine", "SEK", true},
	{"3f1c2a84-6f0e-4b6a-9b57-0a3c5b1de003", "Blue Door Books", "Second-hand books, first-rate stories.", "bluedoor", "GBP", true},
	{"3f1c2a84-6f0e-4b6a-9b57-0a3c5b1de004", "Quayside Wholesale", "A shop of somebody else, where Mara packs parcels.", "quayside", "EUR", false},
}

// StoreAPI serves GET /stores, GET /stores/{storeId} and GET /user in Komerza's
// envelope (seed-contracts 1.2 and 1.4). The verifier decides who may what.
func StoreAPI(v *resource.Verifier) http.Handler {
	mux := http.NewServeMux()
	list := v.Require(resource.Access{Scope: "stores.view"})
	one := v.Require(resource.Access{Scope: "stores.view", Store: func(r *http.Request) string { return r.PathValue("storeId") }})
	account := v.Require(resource.Access{Scope: "user.view"})
	mux.Handle("GET /stores", list(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, map[string]any{"success": true, "message": nil, "code": nil, "pages": 1,
			"data": among(resource.FromContext(r.Context()).Stores("stores.view"))})
	})))
	mux.Handle("GET /stores/{storeId}", one(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found := among([]string{r.PathValue("storeId")})
		if len(found) == 0 {
			refuse(w, http.StatusNotFound, "NotFound", "There is no such store.")
			return
		}
		answer(w, http.StatusOK, map[string]any{"success": true, "message": nil, "code": nil, "data": found[0]})
	})))
	// An app sees the stores that it was given, never other apps or keys.
	mux.Handle("GET /user", account(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := resource.FromContext(r.Context())
		answer(w, http.StatusOK, map[string]any{"success": true, "message": nil, "code": nil,
			"data": map[string]any{"id": caller.Subject, "stores": among(caller.Stores("stores.view"))}})
	})))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "NotFound", "There is nothing at this address.")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Header.Get("User-Agent") == "" { // seed-contracts 1.3: blocked
			refuse(w, http.StatusForbidden, "AccessDenied", "Send a User-Agent header that names your application.")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// among returns the stores with these ids.
func among(ids []string) []store {
	found := []store{}
	for _, st := range stores {
		for _, id := range ids {
			if st.ID == id {
				found = append(found, st)
			}
		}
	}
	return found
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]any{"success": false, "message": message, "code": code, "data": nil})
}
