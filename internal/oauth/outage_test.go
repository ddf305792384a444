package oauth_test

import (
	"context"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// severed is a storage whose connection is lost while an event is under way: the
// event takes effect, its answer is lost, and nothing can be read any more.
type severed struct {
	oauth.Storage
	lost bool
}

func (s *severed) RedeemCode(ctx context.Context, r oauth.Redemption) (bool, error) {
	s.lost = true
	if _, err := s.Storage.RedeemCode(ctx, r); err != nil {
		return false, err
	}
	return false, oauth.ErrUnknown
}

func (s *severed) ClientSecrets(ctx context.Context, id string) ([]oauth.ClientSecret, error) {
	if s.lost {
		return nil, oauth.ErrUnavailable
	}
	return s.Storage.ClientSecrets(ctx, id)
}

// An event whose answer was lost is told as unknown, whatever else cannot be asked
// by then: whoever hears that nothing was done looks for no key that was issued.
func TestToken_ALostAnswerIsToldAsUnknown(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	node, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: &severed{Storage: w.db},
		Ring: ring, Now: w.clock.now, Rand: newRand("severed " + t.Name())})
	w.must(err)
	w.must(node.Follow(ctx))
	_, err = node.Client(ctx, w.exchange.id) // its secret is known from now on
	w.must(err)
	_, err = node.Token(ctx, oauth.TokenRequest{Serves: []oauth.ProfileName{oauth.Exchange}, GrantType: oauth.GrantAuthorizationCode,
		Auth: oauth.ClientAuth{ID: w.exchange.id, Secret: w.exchange.secret}, Code: w.code(w.exchange, "alice", "s1")})
	if got := oauth.AsError(err).Reason; got != oauth.OutcomeUnknown {
		t.Errorf("reason %q, want %q: %v", got, oauth.OutcomeUnknown, err)
	}
}
