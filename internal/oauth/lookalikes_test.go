package oauth

import (
	"testing"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// A letter with an accent looks like the one without, also where both are one character:
// every one that canonical decomposition takes apart (UAX 15) comes down to its base.
func TestSkeletons_Accents(t *testing.T) {
	found := 0
	for _, span := range [...][2]rune{{0xc0, 0x24f}, {0x370, 0x52f}, {0x1e00, 0x1fff}, {0x212a, 0x212b}} {
		for r := span[0]; r <= span[1]; r++ {
			whole := string(r)
			apart := norm.NFD.String(whole)
			if apart == whole || !unicode.IsLetter(r) {
				continue
			}
			found++
			for _, name := range []string{whole, apart} {
				if base := string([]rune(apart)[:1]); skeletons(name) != skeletons(base) {
					t.Errorf("%+q has the skeleton %q, not that of %s", name, skeletons(name), base)
				}
			}
		}
	}
	if found < 790 {
		t.Errorf("only %d letters", found)
	}
}
