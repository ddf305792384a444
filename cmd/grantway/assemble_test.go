package main

import (
	"slices"
	"testing"
)

// What the operator registered is his, with every host in it; what a registry or a hoster
// gives to everybody is not.
func TestAssemble_Sites(t *testing.T) {
	for address, site := range map[string]string{
		"https://auth.harbour.example":      "harbour.example",
		"https://Auth.Harbour.co.uk:8443/x": "harbour.co.uk",
		"https://harbour.example":           "harbour.example",
		"https://harbour.github.io":         "harbour.github.io",
		"http://localhost:8080":             "localhost",
		"http://127.0.0.1:8080":             "127.0.0.1",
		"http://[::1]:8080":                 "::1",
	} {
		if got := sites(address, ""); !slices.Equal(got, []string{site}) {
			t.Errorf("%s: %q, want %q", address, got, site)
		}
	}
}
