package storagetest

import (
	"fmt"
	"net"
	"os"
	"testing"
)

// A free address must stay free until the program listens there: a cluster that was laid
// found the port of its third member in use, by a connection on its way out.
func TestFreeAddress_NoConnectionTakesIt(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		t.Fatal(err)
	}
	var low, high int
	if _, err := fmt.Sscan(string(text), &low, &high); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		address, err := FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		at, err := net.ResolveTCPAddr("tcp", address)
		if err != nil || at.Port < 1024 || at.Port >= low {
			t.Fatalf("%s, %v: connections are given %d to %d", address, err, low, high)
		}
	}
}
