//go:build race

package storagetest

const racing = true
