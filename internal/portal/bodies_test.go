package portal

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// hugeBody is a body that begins like a form with a file in it, and is larger than any form may be. It counts what is read
// of it.
type hugeBody struct {
	io.Reader
	read int64
}

func newHugeBody() *hugeBody {
	const head = "--x\r\nContent-Disposition: form-data; name=\"next\"; filename=\"f\"\r\nContent-Type: application/octet-stream\r\n\r\n"
	return &hugeBody{io.MultiReader(strings.NewReader(head), io.LimitReader(zeros{}, 48<<20), strings.NewReader("\r\n--x--\r\n")), 0}
}

func (e *hugeBody) Read(b []byte) (int, error) {
	n, err := e.Reader.Read(b)
	e.read += int64(n)
	return n, err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestForms_G5_AContentTypeWithoutEnd: a form whose type is longer than types are is none.
func TestForms_G5_AContentTypeWithoutEnd(t *testing.T) {
	s := newSite(t)
	s.user("mara", 0)
	for of, want := range map[string]int{"": http.StatusSeeOther, strings.Repeat("; a=b", 60): http.StatusUnprocessableEntity} {
		r := httptest.NewRequest("POST", "/sign-in", strings.NewReader(url.Values{"email": {"mara@nordlicht.example"}, "password": {password}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded"+of)
		w := httptest.NewRecorder()
		if s.portal.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%q: %d, want %d", of, w.Code, want)
		}
	}
}

// TestForms_G5_NobodyReadsMoreThanAForm: whatever stands in the body of whatever method, no more of it is read than a form
// may have, no file comes of it, and a page is the same as without a body.
func TestForms_G5_NobodyReadsMoreThanAForm(t *testing.T) {
	s := newSite(t)
	c := s.app("Shelfmate", "stores.view")
	b := s.developer("jonas", "/developer")
	own, _ := b.create()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	ask := func(method, path string, signedIn bool, body io.Reader) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, body)
		r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		if method == "POST" {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		if signedIn {
			for _, cookie := range b.client.Jar.Cookies(b.address) {
				r.AddCookie(cookie)
			}
		}
		w := httptest.NewRecorder()
		s.portal.ServeHTTP(w, r)
		return w
	}
	text := func(w *httptest.ResponseRecorder) string {
		doc, err := html.Parse(bytes.NewReader(w.Body.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		return textOf(doc)
	}
	app := appHref(own.ID)
	paths := []string{"/", "/consent", "/sign-in", "/sign-up", "/sign-out", "/nowhere", "/connected-apps", "/connected-apps/change?grant=x",
		"/connected-apps/others", "/developer", "/developer/new", app, app + "/edit", app + "/secrets", app + "/delete", "/operator", "/operator/apps",
		"/auth/authorize?client_id=" + c.ID, "/auth/authorize?client_id=" + c.ID + "&redirect_uri=" + callback, "/auth/authorize?x=y"}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "POST"} {
		for _, path := range paths {
			for _, signedIn := range []bool{false, true} {
				body := newHugeBody()
				got := ask(method, path, signedIn, body)
				most := int64(0)
				if method == "POST" {
					most = storeForm + 1
				}
				if body.read > most {
					t.Errorf("%s %s, signed in %v: %d bytes read", method, path, signedIn, body.read)
				}
				if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
					t.Fatalf("%s %s, signed in %v: left %v, %v", method, path, signedIn, files, err)
				}
				if method == "POST" {
					continue
				}
				if want := ask(method, path, signedIn, http.NoBody); got.Code != want.Code || text(got) != text(want) {
					t.Errorf("%s %s, signed in %v: %d with a body, %d without\n%s", method, path, signedIn, got.Code, want.Code, text(got))
				}
			}
		}
	}
}
