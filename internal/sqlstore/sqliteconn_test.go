package sqlstore

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func openConn(t *testing.T) *sqliteConn {
	t.Helper()
	c, err := openSQLiteConn(filepath.Join(t.TempDir(), "c.db"), sqlitePragmas...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// What goes in comes out, also what is empty, what is longer than the room for
// arguments, and what an argument of the statement before was.
func TestSQLiteConn_ValuesComeBackAsTheyWent(t *testing.T) {
	c := openConn(t)
	long := strings.Repeat("ü\x00", 50_000)
	for _, text := range []string{"", "plain", "zero\x00in it", long, "x"} {
		for _, blob := range [][]byte{{}, nil, {0, 1, 2}, []byte(long)} {
			var gotText, null string
			var none, some *string
			var gotBlob []byte
			var n int64
			var small int
			var yes, no bool
			none = &null
			_, err := c.run("SELECT $2, $1, $3, $4, $5, $6, NULL, $2", []any{blob, text, int64(-1 << 62), 7, true, false}, func(scan func(...any) error) error {
				return scan(&gotText, &gotBlob, &n, &small, &yes, &no, &none, &some)
			})
			if err != nil {
				t.Fatal(err)
			}
			if gotText != text || !bytes.Equal(gotBlob, blob) || (gotBlob == nil) != (blob == nil) || n != -1<<62 || small != 7 || !yes || no || none != nil || some == nil || *some != text {
				t.Errorf("%.20q, %.20q: got %.20q, %.20q, %d, %d, %v, %v, %v, %v", text, blob, gotText, gotBlob, n, small, yes, no, none, some)
			}
		}
	}
}

// A mistake is an error, and the connection goes on.
func TestSQLiteConn_Mistakes(t *testing.T) {
	c := openConn(t)
	into := func(dest ...any) func(func(...any) error) error {
		return func(scan func(...any) error) error { return scan(dest...) }
	}
	for name, of := range map[string]struct {
		text string
		args []any
		row  func(func(...any) error) error
	}{
		"no SQL":                   {"SELECT FROM nothing WHERE", nil, nil},
		"too few arguments":        {"SELECT $1, $2", []any{"one"}, nil},
		"a nameless parameter":     {"SELECT ?", []any{"one"}, nil},
		"an unknown type":          {"SELECT $1", []any{1.5}, nil},
		"too few destinations":     {"SELECT 1, 2", nil, into(new(int64))},
		"too many destinations":    {"SELECT 1", nil, into(new(int64), new(int64))},
		"NULL into a text":         {"SELECT NULL", nil, into(new(string))},
		"a number into a text":     {"SELECT 1", nil, into(new(string))},
		"a text into a number":     {"SELECT '1'", nil, into(new(int64))},
		"an unknown destination":   {"SELECT 1", nil, into(new(float64))},
		"what the caller objects ": {"SELECT 1", nil, func(func(...any) error) error { return errors.New("no") }},
	} {
		if _, err := c.run(of.text, of.args, of.row); err == nil {
			t.Errorf("%s: no error", name)
		}
		var n int64
		if _, err := c.run("SELECT $1", []any{int64(5)}, into(&n)); err != nil || n != 5 {
			t.Errorf("after %s: %d, %v", name, n, err)
		}
	}
}

// Closing waits for the questions under way, and later ones are refused.
func TestSQLite_ClosingWaitsForTheQuestionsUnderWay(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	asked, goOn := make(chan struct{}), make(chan struct{})
	answered := make(chan error, 1)
	go func() {
		var once sync.Once
		answered <- s.engine.query(t.Context(), "SELECT 1 UNION ALL SELECT 2", nil, func(scan func(...any) error) error {
			var n int64
			once.Do(func() { close(asked); <-goOn })
			return scan(&n)
		})
	}()
	<-asked
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		t.Fatalf("closed under a question: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	if err := <-answered; err != nil {
		t.Errorf("the question: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("closing: %v", err)
	}
	if err := s.engine.query(t.Context(), "SELECT 1", nil, func(func(...any) error) error { return nil }); !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("a question afterwards: %v", err)
	}
}
