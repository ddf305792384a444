package endpoint

import (
	"encoding/base64"
	"net/url"
	"strings"
)

// parseBasic decodes Basic credentials as RFC 6749, 2.3.1 has them: both halves
// were form-urlencoded before they were joined and base64-encoded.
func parseBasic(encoded string) (id, secret string, ok bool) {
	const maxBasic = 4 << 10
	if len(encoded) > maxBasic {
		return "", "", false
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return "", "", false
	}
	rawID, rawSecret, found := strings.Cut(string(raw), ":")
	if !found {
		return "", "", false
	}
	if id, err = url.QueryUnescape(rawID); err != nil || id == "" {
		return "", "", false
	}
	if secret, err = url.QueryUnescape(rawSecret); err != nil {
		return "", "", false
	}
	return id, secret, true
}
