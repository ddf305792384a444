package oauth

import (
	"crypto/rand"
	"strings"
	"testing"
)

// Operators type the id of a key (grantway key cut), where a dash begins a flag. One in 64
// would begin with one.
func TestMakeKey_NoFlag(t *testing.T) {
	for range 1000 {
		if _, kid, err := makeKey(rand.Reader); err != nil || len(kid) != 43 || strings.HasPrefix(kid, "-") {
			t.Fatalf("%q, %v", kid, err)
		}
	}
}
