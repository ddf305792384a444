package sqlstore

import (
	"context"

	"github.com/grantway/grantway/internal/oauth"
)

// API implements oauth.APIStorage.
func (s *Store) API(ctx context.Context, id string) (*oauth.API, error) {
	return only(s.apis(ctx, "id = $1", id))
}

// APIByURI implements oauth.APIStorage.
func (s *Store) APIByURI(ctx context.Context, uri string) (*oauth.API, error) {
	return only(s.apis(ctx, "uri = $1", uri))
}

// APIs implements oauth.APIStorage.
func (s *Store) APIs(ctx context.Context) ([]*oauth.API, error) { return s.apis(ctx, "1 = 1") }

func (s *Store) apis(ctx context.Context, where string, args ...any) ([]*oauth.API, error) {
	var list []*oauth.API
	err := s.engine.query(ctx, "SELECT id, uri, issuer, name, status FROM apis WHERE "+where+" ORDER BY created, id", args, func(scan func(...any) error) error {
		var a oauth.API
		if err := scan(&a.ID, &a.URI, &a.Issuer, &a.Name, (*string)(&a.Status)); err != nil {
			return unavailable(err)
		}
		list = append(list, &a)
		return nil
	})
	for _, a := range list {
		if err != nil {
			break
		}
		if a.Secrets, err = s.secrets(ctx, "api_secrets", "api_id", a.ID); err == nil {
			for _, secret := range a.Secrets {
				s.proves(a.ID, secret.Hash)
			}
		}
	}
	return list, err
}

// apiSecret is one that was an API's when it was last read.
type apiSecret struct{ api, hash string }

// proves remembers that a secret is an API's, for [Store.Asked].
func (s *Store) proves(api string, hash oauth.Hash) {
	s.apiSecrets.Store(apiSecret{api, string(hash)}, struct{}{})
}

// CreateAPI implements oauth.APIStorage.
func (s *Store) CreateAPI(ctx context.Context, a *oauth.API, e oauth.Event) (bool, error) {
	var n int64
	m := opOf("apis", a.ID, e.ID)
	steps := []statement{}
	for _, sec := range a.Secrets {
		steps = append(steps, insertSecret("api_secrets", "api_id", a.ID, sec, e, m))
	}
	return s.won(ctx, &n, one(counted(&n, `INSERT INTO apis (id, uri, issuer, name, status, op, created) VALUES ($1, $2, $3, $4, 'active', $5, $6) ON CONFLICT DO NOTHING`,
		a.ID, a.URI, a.Issuer, a.Name, e.ID, micros(e.At))), steps, note(e, true, m))
}

// AddAPISecret implements oauth.APIStorage.
func (s *Store) AddAPISecret(ctx context.Context, apiID string, sec oauth.ClientSecret, e oauth.Event) (bool, error) {
	var n int64
	m := opOf("apis", apiID, e.ID)
	guard := counted(&n, "UPDATE apis SET op = $1 WHERE id = $2 AND (SELECT COUNT(*) FROM api_secrets WHERE api_id = $2) < $3", e.ID, apiID, oauth.MaxSecrets)
	return s.won(ctx, &n, s.lockAPI(apiID), one(guard), one(insertSecret("api_secrets", "api_id", apiID, sec, e, m)), note(e, true, m))
}

// RevokeAPISecret implements oauth.APIStorage.
func (s *Store) RevokeAPISecret(ctx context.Context, apiID string, h oauth.Hash, e oauth.Event) (bool, error) {
	return s.dropSecret(ctx, "apis", s.lockAPI(apiID), "api_secrets", "api_id", apiID, h, e)
}

func (s *Store) lockAPI(id string) []statement {
	return s.engine.lock("SELECT id FROM apis WHERE id = $1", id)
}

// SigningKeys implements oauth.APIStorage.
func (s *Store) SigningKeys(ctx context.Context) ([]oauth.StoredKey, error) {
	var list []oauth.StoredKey
	err := s.engine.query(forFeed.of(ctx), "SELECT kid, alg, use, sealed, public, status, created FROM signing_keys ORDER BY created, kid", nil, func(scan func(...any) error) error {
		var k oauth.StoredKey
		var created int64
		if err := scan(&k.Kid, &k.Alg, (*string)(&k.Use), &k.Sealed, &k.Public, (*string)(&k.Status), &created); err != nil {
			return unavailable(err)
		}
		k.Created = fromMicros(created)
		list = append(list, k)
		return nil
	})
	return list, err
}

// AddSigningKey implements oauth.APIStorage.
func (s *Store) AddSigningKey(ctx context.Context, k oauth.StoredKey, e oauth.Event) (bool, error) {
	var n int64
	return s.won(ctx, &n, one(counted(&n, `INSERT INTO signing_keys (kid, alg, use, sealed, public, status, op, created)
		VALUES ($1, $2, $3, $4, $5, 'active', $6, $7) ON CONFLICT DO NOTHING`, k.Kid, k.Alg, string(k.Use), k.Sealed, k.Public, e.ID, micros(e.At))),
		note(e, true, mark{"signing_keys", "kid", "op", k.Kid, e.ID}))
}
