//go:build race

package storagetest

const Racing = true
