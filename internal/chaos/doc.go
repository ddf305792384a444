// Package chaos breaks a running Grantway on purpose and holds it against a log
// that its clients kept.
//
// A round sets up an installation, drives it over HTTP as apps, customers and an
// operator would, breaks something under that load, mends it, and then asks for
// everything that was ever acknowledged: no code was redeemed twice; no key,
// grant, revocation, secret or rotation is missing; nothing that ended is alive;
// every request was answered or cleanly refused; and the service was ready at
// once, without a human. A good key that is refused counts as much as a dead one
// that is accepted.
//
// Each worker of the load owns what it makes (its customer, grants, chains, keys),
// and does one thing at a time, so it always knows what the server must answer:
// alive, dead, or either, after an answer was lost.
package chaos
