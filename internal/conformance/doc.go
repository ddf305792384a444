// Package conformance tests a running Grantway over HTTP and nothing else.
//
// The tests are text: each file of testdata/wire is one conversation, headed by the clause it comes from and by what
// must be seen. Its language is described in testdata/wire/README.md.
//
// The tests build and start the demo themselves. To aim them at a server that runs already, set GRANTWAY_DEMO_JSON to
// a file that holds the line which `grantway demo --json` printed; GRANTWAY_URL, if set, replaces the issuer in it.
//
// The same conversations are held with three nodes behind nginx (nodes_test.go), which hands each request to another
// one, and go on while the nodes are restarted.
package conformance
