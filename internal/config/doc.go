// Package config reads what an operator configures: the settings of a server and
// the catalogue of scopes.
//
// One table, [Options], gives each setting its YAML key, its environment name,
// its flag and its line in the documentation. Flags win over the environment, the
// environment over the file, the file over the default. Nothing is guessed: a key
// that the table does not have, a key given twice and an empty value are errors,
// and [Load] reports all errors at once, one a line, each saying where it is and
// what to write instead.
package config
