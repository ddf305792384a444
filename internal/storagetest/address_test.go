package storagetest

import (
	"net"
	"testing"
)

// A free address must stay free until the program listens there: a cluster that was laid
// found the port of a member in use, by a connection on its way out.
func TestFreeAddress_NoConnectionTakesIt(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		address, err := FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		at, err := net.ResolveTCPAddr("tcp", address)
		if err != nil || at.Port < 1024 || at.Port >= 32768 { // from there on Linux gives them to connections, as it comes
			t.Fatalf("%s, %v", address, err)
		}
		seen[at.Port] = true
	}
	if len(seen) < 150 {
		t.Errorf("of 200 there are %d: two programs would be given one", len(seen))
	}
}
