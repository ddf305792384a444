package oauth

import (
	"context"
)

// Mint signs an access token of a key that is out, as an exchange would.
func (s *Server) Mint(ctx context.Context, family string) (string, error) {
	f, st, err := s.storage.Family(ctx, family)
	if err != nil {
		return "", err
	}
	return s.mint(profiles[Exchange], f, st, st.rights(), nil)
}

// VerifyOwn reports whether token is a JWT of this server.
func (s *Server) VerifyOwn(token string) bool {
	_, ok := s.verifyOwn(token)
	return ok
}

// Unseal opens a signing key at rest.
func (s *Server) Unseal(k StoredKey) ([]byte, error) { return s.ring.open(sealKeyPurpose, k.Sealed) }
