package oauth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"time"
)

// maxTries bounds how often an issuing event is built anew because the world
// changed between its read and its guard.
const maxTries = 8

// redeemCode exchanges a code (RFC 6749, 4.1.3; seed komerza-exchange). Checks and
// signature come before the write: a wrong verifier or a failed signer burns and
// reveals nothing. The write is one atomic event that at most one caller wins.
func (s *Server) redeemCode(ctx context.Context, c *Client, proof Proof, r TokenRequest) (*TokenResponse, error) {
	if r.Code == "" {
		return nil, refuseParam(ParamMissing, "code")
	}
	a, ok := ParseArtefact(r.Code)
	if !ok {
		return nil, refuse(CodeUnknown)
	}
	p := c.profile()
	for range maxTries {
		code, st, err := s.storage.Code(ctx, a.Selector)
		if errors.Is(err, ErrNotFound) {
			return nil, refuse(CodeUnknown)
		}
		if err != nil {
			return nil, err
		}
		if err := checkCode(c, p, code, a.Secret, r); err != nil {
			return nil, err
		}
		if code.RedeemedFamily != "" {
			if err := s.confirm(ctx, c, proof); err != nil {
				return nil, err
			}
			return nil, s.replayed(ctx, c, p, code)
		}
		now := s.now()
		if !now.Before(code.Expires) {
			return nil, refuse(CodeExpired)
		}
		red := Redemption{Selector: code.Selector, ClientID: c.ID, Proof: proof, Now: now}
		if st == nil {
			if !p.Guest || code.GrantID != "" { // its grant is gone: nobody becomes a guest for that
				return nil, refuse(CodeUnknown)
			}
			if st, err = s.guest(ctx, c, &red); err != nil {
				return nil, err
			}
		} else if refusal := st.usable(); refusal != nil {
			return nil, refusal
		}
		if code.FamilyID != "" {
			if err := r.admitFamily(code.FamilyID); err != nil {
				return nil, err
			}
		}
		resp, err := s.issue(ctx, c, p, code, st, &red)
		if err != nil {
			return nil, err
		}
		won, err := s.storage.RedeemCode(ctx, red)
		if err != nil {
			return nil, err
		}
		if won {
			s.usedGrant(red.Family.GrantID)
			return resp, nil
		}
		if err := s.again(ctx, c, proof); err != nil {
			return nil, err
		}
	}
	return nil, refuse(Changed) // the code is as good as it was
}

// checkCode says whether the code is this client's and the request's proofs are
// right. It comes before any question about the code's state, so that only a
// replay which is otherwise valid counts as one (OAuth 2.1, 4.1.3).
func checkCode(c *Client, p Profile, code *StoredCode, secret Secret, r TokenRequest) error {
	switch {
	case !code.Hash.Matches(secret):
		return refuse(CodeUnknown)
	case code.ClientID != c.ID || code.Profile != p.Name:
		return refuse(CodeForeign)
	}
	if p.RedirectEcho {
		// With PKCE its absence is tolerated: OAuth 2.1 has dropped the parameter. The
		// direct profile demands the constant (seed dressipi-token).
		switch {
		case r.RedirectURI == "" && (p.Guest || code.RedirectSent && code.Challenge == ""):
			return refuseParam(ParamMissing, "redirect_uri")
		case r.RedirectURI != "" && r.RedirectURI != code.Redirect:
			return refuse(CodeRedirect)
		}
	}
	switch {
	case code.Challenge == "" && r.Verifier != "":
		return refuse(VerifierUnexpected) // RFC 9700, 4.8.2: no downgrade
	case code.Challenge == "":
		return nil
	case r.Verifier == "":
		return refuse(VerifierMissing)
	case !proves(r.Verifier, code.Challenge):
		return refuse(VerifierWrong)
	}
	return nil
}

// proves checks a code_verifier against an S256 challenge (RFC 7636, 4.1 and 4.6).
func proves(verifier, challenge string) bool {
	if len(verifier) < 43 || len(verifier) > 128 {
		return false
	}
	for i := range len(verifier) {
		if b := verifier[i]; !isURLSafe(b) && b != '.' && b != '~' {
			return false
		}
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// replayed refuses a code that was used, and revokes what it issued unless this is
// taken for a network retry (DESIGN, decision 4). Never the rest of the grant: a code that
// continued a guest issued a refresh chain in a family that was there before, and the
// guest, who cannot sign in anew, keeps that. One that revokes is an event, and so is the
// first that does not; whoever goes on leaves nothing.
func (s *Server) replayed(ctx context.Context, c *Client, p Profile, code *StoredCode) error {
	told := codeReplayed{Family: code.RedeemedFamily, Revoked: s.now().Sub(code.RedeemedAt) >= p.ReplayGrace}
	family := ""
	switch {
	case told.Revoked && code.FamilyID != "":
		told.Chain = code.Selector
	case told.Revoked:
		family = code.RedeemedFamily
	}
	e, err := s.NewEvent(ctx, EventCodeReplayed, Actor{AsClient, c.ID}, told)
	if err != nil {
		return err
	}
	e.ClientID, e.GrantID = c.ID, code.GrantID
	ended := false
	if told.Chain != "" {
		ended, err = s.storage.EndChain(ctx, told.Chain, e)
	}
	if err == nil && !ended {
		_, err = s.storage.RevokeReplayed(ctx, code.Selector, family, e)
	}
	if err != nil {
		return err
	}
	return refuse(CodeUsed)
}

// codeReplayed is the payload of EventCodeReplayed.
type codeReplayed struct {
	Family  string `json:"family"`
	Revoked bool   `json:"revoked"`
	Chain   string `json:"chain,omitempty"` // which ended, and the family did not
}

// redeemed is the payload of EventCodeRedeemed.
type redeemed struct {
	Family  string      `json:"family"`
	Profile ProfileName `json:"profile"`
}

// issue builds a family and its tokens. Nothing is written yet.
func (s *Server) issue(ctx context.Context, c *Client, p Profile, code *StoredCode, st *Standing, red *Redemption) (*TokenResponse, error) {
	rights := st.rights().narrow(code.Narrowing)
	if rights.empty() && !p.Guest {
		return nil, refuse(NoRights)
	}
	red.GrantID, red.Rev, red.ISeq, red.Activate = st.Grant.ID, st.Grant.Rev, st.Seq, st.Grant.Status == Pending
	if red.Guest != nil {
		red.GrantID = ""
	}
	var err error
	if code.FamilyID != "" {
		existing, on, err := s.storage.Family(ctx, code.FamilyID)
		if err != nil {
			return nil, err
		}
		if existing.over(on) {
			return nil, refuse(GrantDead)
		}
		red.Family, red.Continue = *existing, true
	} else if red.Family, err = s.newFamily(ctx, p, code, st, rights); err != nil {
		return nil, err
	}
	resp := &TokenResponse{Profile: p.Name, ClientID: c.ID, GrantID: st.Grant.ID, Scope: rights.Flat().String(), ExpiresIn: p.AccessLife}
	access, kid, err := s.mint(p, &red.Family, st, rights, nil)
	if err != nil {
		return nil, err
	}
	resp.AccessToken, red.Kid = Secret(access), kid
	if p.Lasting {
		red.Family.Token = HashOf(resp.AccessToken)
	}
	if p.Refresh {
		a, err := s.newRefresh(code.Selector)
		if err != nil {
			return nil, err
		}
		red.Refresh = &StoredRefresh{Selector: a.Selector, Family: red.Family.ID, Hash: HashOf(a.Secret), IdleUntil: red.Now.Add(p.RefreshIdle)}
		if p.RefreshAbsolute > 0 {
			red.Refresh.AbsoluteUntil = red.Now.Add(p.RefreshAbsolute)
		}
		resp.RefreshToken = a.Secret
	}
	red.Event, err = s.NewEvent(ctx, EventCodeRedeemed, Actor{AsClient, c.ID}, redeemed{red.Family.ID, p.Name})
	red.Event.ClientID, red.Event.UserID, red.Event.GrantID = c.ID, red.Family.UserID, red.Family.GrantID
	return resp, err
}

func (s *Server) newFamily(ctx context.Context, p Profile, code *StoredCode, st *Standing, rights Rights) (Family, error) {
	id, err := s.newID("fm_")
	if err != nil {
		return Family{}, err
	}
	index, err := s.nextIndex(ctx, p)
	if err != nil {
		return Family{}, err
	}
	now := s.now()
	f := Family{ID: id, GrantID: st.Grant.ID, ClientID: code.ClientID, UserID: st.Grant.UserID, API: code.API, StatusIndex: index,
		Narrowing: code.Narrowing, Status: Valid, Rev: st.Grant.Rev, ISeq: st.Seq, Created: now}
	if !rights.printable(&st.Grant) {
		f.Status = Ask
	}
	if p.Refresh {
		f.Due = now.Add(p.RefreshIdle)
	}
	return f, nil
}

// guest prepares the user and grant that a direct client's code makes when it is
// redeemed: unredeemed, it leaves nothing (seed-contracts D10).
func (s *Server) guest(ctx context.Context, c *Client, red *Redemption) (*Standing, error) {
	userID, err := s.newID("gst_")
	if err != nil {
		return nil, err
	}
	grantID, err := s.newID("gr_")
	if err != nil {
		return nil, err
	}
	seq, _, err := s.storage.Head(ctx)
	if err != nil {
		return nil, err
	}
	_, account := s.catalogue.split(c.ScopeSet())
	red.Guest = &Grant{ID: grantID, UserID: userID, ClientID: c.ID, Account: account, Status: Live, Rev: 1, Created: red.Now}
	return &Standing{Grant: *red.Guest, UserKind: Guest, UserStatus: Active, ClientStatus: Active, Seq: seq}, nil
}

// DirectRequest is an authorization request of a direct client: the app itself
// asks, and the answer is JSON (seed-contracts 1.6).
type DirectRequest struct {
	Query  map[string][]string
	APIKey Secret
	Admit  func(*Client) error // as of [ClientAuth]
	Guest  string              // x-dressipi-jwt, "" if none was sent
}

// DirectCode is the answer to a [DirectRequest].
type DirectCode struct {
	Code  Secret
	State string
}

// AuthorizeDirect issues a guest code. Nobody is asked; the code carries no grant.
// On error, state is what may be echoed.
func (s *Server) AuthorizeDirect(ctx context.Context, r DirectRequest) (answer DirectCode, err error) {
	state, e := single(r.Query, "state", maxState)
	if e != nil {
		return DirectCode{}, e
	}
	answer.State = state
	id, e := single(r.Query, "client_id", maxClient)
	if e != nil {
		return answer, e
	}
	c, proof, err := s.authenticate(ctx, ClientAuth{ID: id, APIKey: r.APIKey, Admit: r.Admit}, []ProfileName{Direct})
	if err != nil {
		return answer, err
	}
	redirect, e := single(r.Query, "redirect_uri", maxRedirectLen)
	switch {
	case e != nil:
		return answer, e
	case redirect == "":
		return answer, refuse(RedirectMissing)
	}
	if _, ok := c.RedirectTo(redirect); !ok {
		return answer, refuse(RedirectUnregistered)
	}
	if state == "" {
		return answer, refuseParam(ParamMissing, "state")
	}
	responseType, e := single(r.Query, "response_type", 64)
	switch {
	case e != nil:
		return answer, e
	case responseType == "":
		return answer, refuseParam(ParamMissing, "response_type")
	case responseType != "code":
		return answer, refuse(ResponseType)
	}
	hash, e := challenge(r.Query, true)
	if e != nil {
		return answer, e
	}
	a, err := s.newArtefact()
	if err != nil {
		return answer, err
	}
	now := s.now()
	code := &StoredCode{Selector: a.Selector, Hash: HashOf(a.Secret), Request: a.Selector, ClientID: c.ID, Profile: c.Profile, API: s.api.ID,
		Redirect: redirect, RedirectSent: true, Challenge: hash, AuthTime: now, Expires: now.Add(CodeLife)}
	if c.Settings.ContinueGuest && r.Guest != "" {
		if err := s.continueGuest(ctx, c, code, r.Guest, now); err != nil {
			return answer, err
		}
	}
	ev, err := s.NewEvent(ctx, EventCodeIssued, Actor{AsClient, c.ID}, nil)
	if err != nil {
		return answer, err
	}
	ev.ClientID, ev.GrantID = c.ID, code.GrantID
	won, err := s.storage.IssueGuestCode(ctx, code, proof, ev)
	if err == nil && !won {
		err = s.unproved(ctx, c, proof)
	}
	switch {
	case err != nil:
		return answer, err
	case !won && code.FamilyID == "":
		return answer, refuse(ClientSuspended)
	case !won:
		return answer, refuse(GuestTokenWrong)
	}
	answer.Code = a.Secret
	return answer, nil
}

// continueGuest lets the new tokens join the family of a live guest token of the
// same client (DESIGN, decision 3).
func (s *Server) continueGuest(ctx context.Context, c *Client, code *StoredCode, token string, now time.Time) error {
	v, err := s.verifyOwn(ctx, token)
	if err != nil {
		return err
	}
	if v == nil || v.ClientID != c.ID || v.Expires <= now.Unix() {
		return refuse(GuestTokenWrong)
	}
	f, st, err := s.storage.Family(ctx, v.family)
	if errors.Is(err, ErrNotFound) {
		return refuse(GuestTokenWrong)
	}
	if err != nil {
		return err
	}
	if f.ClientID != c.ID || f.over(st) || st == nil || st.UserKind != Guest || st.usable() != nil {
		return refuse(GuestTokenWrong)
	}
	code.GrantID, code.FamilyID = f.GrantID, f.ID
	return nil
}
