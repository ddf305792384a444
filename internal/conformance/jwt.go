package conformance

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// splitJWT returns the decoded header and claims of a compact JWS, unverified.
func splitJWT(token string) (header, claims any, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("%q is not a JWT", token)
	}
	var decoded [2]any
	for i := range decoded {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, nil, fmt.Errorf("%q is not a JWT: %w", token, err)
		}
		if decoded[i], err = decodeJSON(string(text)); err != nil {
			return nil, nil, fmt.Errorf("%q is not a JWT: %w", token, err)
		}
	}
	return decoded[0], decoded[1], nil
}

// verifyJWT checks an ES256 signature against the key that a JWK set holds under the token's kid. It reports false when
// the set has no such key, and an error when it has one that does not fit.
func verifyJWT(token string, set jose.JSONWebKeySet) (bool, error) {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return false, err
	}
	keys := set.Key(jws.Signatures[0].Header.KeyID)
	if len(keys) == 0 {
		return false, nil
	}
	if len(keys) > 1 {
		return false, fmt.Errorf("%d keys share the kid %q", len(keys), jws.Signatures[0].Header.KeyID)
	}
	if _, err := jws.Verify(keys[0]); err != nil {
		return false, err
	}
	return true, nil
}
