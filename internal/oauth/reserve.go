package oauth

import "encoding/base64"

// ReservedID is the id of an app that a form will make. Posting the form again
// meets the app that is there (FieldErrors, "id": IDTaken) instead of making a
// second one. Only [Server.OpenReserved] makes one, so nobody picks an id.
type ReservedID struct{ id string }

// ClientID is the id itself, which an app may have by now.
func (r ReservedID) ClientID() string { return r.id }

const reservedPurpose = "id of a new app for "

// ReserveID makes a fresh id of an app and seals it for a form of one user.
// Nothing is kept.
func (s *Server) ReserveID(userID string) (string, error) {
	id, err := s.newUUID()
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.ring.seal(reservedPurpose+userID, []byte(id))), nil
}

// OpenReserved opens what [Server.ReserveID] made for the same user.
func (s *Server) OpenReserved(sealed, userID string) (ReservedID, error) {
	text, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return ReservedID{}, refuse(RequestExpired)
	}
	id, err := s.ring.open(reservedPurpose+userID, text)
	if err != nil {
		return ReservedID{}, refuse(RequestExpired)
	}
	return ReservedID{string(id)}, nil
}
