package oauth

import "net/netip"

// NetworkOf returns the network that an attempt to guess counts for: /24 in IPv4,
// /56 in IPv6, which is what a household or an office gets.
func NetworkOf(ip string) string { return prefix(ip, 24, 56) }

// AddressOf returns the address that an attempt counts for. In IPv6 nobody has only
// one.
func AddressOf(ip string) string { return prefix(ip, 32, 56) }

// prefix maps whatever is not an IP address to one value, so that it is limited
// too.
func prefix(ip string, v4, v6 int) string {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return "unknown"
	}
	a = a.Unmap().WithZone("")
	bits := v6
	if a.Is4() {
		bits = v4
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return p.String()
}
