// Package interop walks each flow with clients that nobody here wrote: golang.org/x/oauth2 and golang-jwt in Go, jose,
// jsonwebtoken with jwks-rsa, openid-client and oauth4webapi in Node, real curl, and the published samples of the two seed
// systems, all against the running demo.
//
// The Node packages are pinned in package.json and package-lock.json; the tests install them with "npm ci" where
// node_modules is missing. The lock names no registry: npm asks the one that it is configured for.
package interop
