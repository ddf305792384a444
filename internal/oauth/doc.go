// Package oauth is the authorization server: its nouns, its rules, its
// use-cases, and the contract that storage must keep. It knows neither HTTP nor
// SQL. A dialect parses a request into one of the structs here, calls one method
// of [Server], and prints the result; storage keeps each promise of [Storage] in
// one atomic event.
//
// The life of a key, in the order of the files:
//
//	authorize.go   asked      AuthorizationRequest, validated against registration
//	consent.go     decided    the user picks stores and allows: Decide
//	grants.go      remembered Grant, the root of everything issued
//	token.go       Token: the client is authenticated once, then one switch
//	code.go        redeemCode: checks, signature, then one atomic RedeemCode
//	refresh.go     refreshToken
//	introspect.go  what a key may do at this moment
//	revoke.go      the end
package oauth
