package resource_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/grantway/grantway/resource"
)

var (
	ctx     context.Context
	mux     *http.ServeMux
	product http.Handler
	v       *resource.Verifier
)

// Three lines guard an API.
func ExampleVerifier_Require() {
	v, err := resource.New(ctx, resource.Config{Issuer: "https://auth.example", Audience: "https://api.example", ClientID: "store-api", ClientSecret: "…"})
	store := func(r *http.Request) string { return r.PathValue("storeId") }
	mux.Handle("PUT /stores/{storeId}/products", v.Require(resource.Access{Scope: "stores.products.update", Store: store})(product))
	_ = err
}

// A route that is not about one store filters by the stores of its caller.
func ExampleCaller_Stores() {
	list := func(w http.ResponseWriter, r *http.Request) {
		for _, id := range resource.FromContext(r.Context()).Stores("stores.view") {
			fmt.Fprintln(w, id)
		}
	}
	mux.Handle("GET /stores", v.Require(resource.Access{Scope: "stores.view"})(http.HandlerFunc(list)))
}

// Check serves other transports. The store is whatever the message is about.
func ExampleVerifier_Check() {
	handle := func(ctx context.Context, token, storeID string) error {
		caller, err := v.Check(ctx, token, resource.Access{
			Scope: "stores.orders.view",
			Store: func(*http.Request) string { return storeID },
		})
		if e, ok := errors.AsType[*resource.Error](err); ok && e.Kind == resource.Unavailable {
			return fmt.Errorf("try again in a second: %w", err)
		}
		if err != nil {
			return err
		}
		fmt.Println(caller.Subject)
		return nil
	}
	_ = handle
}
