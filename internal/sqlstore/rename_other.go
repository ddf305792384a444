//go:build !linux

package sqlstore

import "errors"

func renameNoReplace(string, string) error { return errors.ErrUnsupported }
