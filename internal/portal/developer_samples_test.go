package portal

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

func TestSamples_PublishedLinesOfTheExchange(t *testing.T) {
	c := sampleClient()
	steps := samples(sampleAddresses, c)[0].Steps
	want := []string{
		"https://dashboard.kaufhaus.example/auth/authorize?client_id=" + c.ID + "&redirect_uri=https%3A%2F%2Fapp.shelfmate.example%2Fcallback%3Flang%3Den%26from%3Dshop&state=random123",
		`curl "https://api.kaufhaus.example/oauth2/` + c.ID + `/exchange/$CODE" \` + "\n" + `  -H "X-Client-Secret: $CLIENT_SECRET" \` + "\n  -H 'User-Agent: Shelfmate/1.0'",
		"curl 'https://api.kaufhaus.example/stores' \\\n  -H \"Authorization: Bearer $API_KEY\" \\\n  -H 'User-Agent: Shelfmate/1.0'",
	}
	for i, w := range want {
		if got := steps[i].Code.Text; got != w {
			t.Errorf("step %d:\n%s\nwant\n%s", i+1, got, w)
		}
	}
}

// TestSamples_HoldForHostileRegistrations fills every sample with what a registration may contain at worst, and lets the
// compilers and shells that are here read it.
func TestSamples_HoldForHostileRegistrations(t *testing.T) {
	folder := t.TempDir()
	read := map[string]func(file string) *exec.Cmd{
		"curl":   func(file string) *exec.Cmd { return exec.Command("sh", "-n", file) },
		"Node":   func(file string) *exec.Cmd { return exec.Command("node", "--check", file) },
		"Python": func(file string) *exec.Cmd { return exec.Command("python3", "-m", "py_compile", file) },
	}
	ending := map[string]string{"curl": ".sh", "Node": ".mjs", "Python": ".py", "Go": ".go"}
	for _, kind := range []string{kindExchange, kindServer, kindPublic, kindDirect} {
		c := sampleClient()
		c.ID, c.Name = `7d0'"$(x)`, "Ünïcode <b>"
		c.Redirects = []oauth.RedirectURI{"https://app.example/cb?q='$(id)`&x={{.}}%27"}
		switch kind {
		case kindServer:
			c.Profile = oauth.Standard
		case kindPublic:
			c.Profile, c.Type, c.AuthMethod = oauth.Standard, oauth.Public, oauth.ByNone
		case kindDirect:
			c.Profile, c.Type, c.AuthMethod = oauth.Direct, oauth.Public, oauth.ByNone
		}
		for _, language := range samples(sampleAddresses, c) {
			for i, step := range language.Steps {
				if strings.Contains(step.Code.Text, "CLIENT_SECRET") && c.AuthMethod == oauth.ByNone {
					t.Errorf("%s %s: an app without a secret reads one", kind, language.Name)
				}
				if step.Caption == "step.authorize" && kind == kindExchange {
					if _, err := url.Parse(step.Code.Text); err != nil {
						t.Error(err)
					}
					continue
				}
				if language.Name == "Go" {
					if _, err := parser.ParseFile(token.NewFileSet(), "sample.go", step.Code.Text, parser.AllErrors); err != nil {
						t.Errorf("%s: %v\n%s", kind, err, step.Code.Text)
					}
					continue
				}
				file := filepath.Join(folder, fmt.Sprint(kind, i, ending[language.Name]))
				if err := os.WriteFile(file, []byte(step.Code.Text), 0o644); err != nil {
					t.Fatal(err)
				}
				out, err := read[language.Name](file).CombinedOutput()
				if errors.Is(err, exec.ErrNotFound) && os.Getenv("TEST_GRANTWAY_ALL") == "" {
					t.Logf("LEFT OUT: %s is not installed, so its sample was not read", language.Name)
				} else if err != nil {
					t.Errorf("%s %s: %v\n%s\n%s", kind, language.Name, err, out, step.Code.Text)
				}
			}
		}
	}
}

// TestSamples_GoCompiles builds the Go samples with the libraries that they import.
func TestSamples_GoCompiles(t *testing.T) {
	for _, kind := range []string{kindExchange, kindServer, kindPublic} {
		c := sampleClient()
		switch kind {
		case kindServer:
			c.Profile = oauth.Standard
		case kindPublic:
			c.Profile, c.Type, c.AuthMethod = oauth.Standard, oauth.Public, oauth.ByNone
		}
		code := samples(sampleAddresses, c)[1].Steps[0].Code.Text
		file := filepath.Join(t.TempDir(), "connect.go")
		if err := os.WriteFile(file, []byte(code+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"go", "vet", file}, {"gofmt", "-l", file}} {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil || command[0] == "gofmt" && len(out) > 0 {
				t.Errorf("%s: %s: %v\n%s\n%s", kind, command[0], err, out, code)
			}
		}
	}
}

// TestSamples_NoSecretIsFilledIn: the samples name the variable.
func TestSamples_NoSecretIsFilledIn(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	c, secret := b.create()
	text, err := json.Marshal(samples(addressesOf(s.server, ""), c))
	if err != nil || strings.Contains(string(text), secret) || !strings.Contains(string(text), "$CLIENT_SECRET") {
		t.Errorf("the samples hold the secret: %t, %v", strings.Contains(string(text), secret), err)
	}
}
