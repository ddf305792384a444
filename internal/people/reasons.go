package people

import (
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// The reasons of this package, beside those of oauth.
const (
	ReasonCredentials    oauth.Reason = "credentials_wrong"
	ReasonLocked         oauth.Reason = "sign_in_locked"
	ReasonBusy           oauth.Reason = "sign_in_busy"
	ReasonEmailTaken     oauth.Reason = "email_taken"
	ReasonEmailMalformed oauth.Reason = "email_malformed"
	ReasonPasswordShort  oauth.Reason = "password_short"
	ReasonPasswordLong   oauth.Reason = "password_long"
	ReasonPasswordEmail  oauth.Reason = "password_is_email"
	ReasonPasswordCommon oauth.Reason = "password_common"
	ReasonInviteSpent    oauth.Reason = "invite_spent"
	ReasonNoPassword     oauth.Reason = "password_none"
	ReasonPasswordSet    oauth.Reason = "password_set_meanwhile"
)

// RetryAfter is how long to wait after [ReasonBusy].
const RetryAfter = 5 * time.Second

// The events of this package, beside those of oauth.
const (
	EventSignedOut        oauth.Kind = "user.signed_out"
	EventSessionsEnded    oauth.Kind = "user.sessions_ended"
	EventOperatorLinkMade oauth.Kind = "operator.link_made"
)

var reasons = map[oauth.Reason]struct {
	code  oauth.Code
	text  string
	param string
}{
	ReasonCredentials:    {oauth.Incorrect, "We could not sign you in. Check the e-mail and password.", ""},
	ReasonLocked:         {oauth.Forbidden, "There were too many attempts. Wait a while, then try again.", ""},
	ReasonBusy:           {oauth.TemporarilyUnavailable, "Many people are signing in at this moment. Try again in a few seconds.", ""},
	ReasonEmailTaken:     {oauth.Incorrect, "There is an account with this e-mail. Sign in instead.", "email"},
	ReasonEmailMalformed: {oauth.Incorrect, "Write the whole address, such as name@example.com.", "email"},
	ReasonPasswordShort:  {oauth.Incorrect, "Use at least 8 characters.", "password"},
	ReasonPasswordLong:   {oauth.Incorrect, "Use at most 256 characters.", "password"},
	ReasonPasswordEmail:  {oauth.Incorrect, "Your e-mail is the first thing that anybody would try. Choose another password.", "password"},
	ReasonPasswordCommon: {oauth.Incorrect, "This is one of the passwords that are tried first. Choose another.", "password"},
	ReasonInviteSpent:    {oauth.Incorrect, "This link was used or has expired. Ask for a new one.", "invite"},
	ReasonNoPassword:     {oauth.Incorrect, "Nobody signs in to this account with a password, and none can be given to it.", ""},
	ReasonPasswordSet:    {oauth.Incorrect, "Somebody else set a password for this account at the same moment. That one is in force, and this one is not.", ""},
}

// Reasons lists every reason of this package with its code, for documents and
// tests.
func Reasons() map[oauth.Reason]oauth.Code {
	m := make(map[oauth.Reason]oauth.Code, len(reasons))
	for r, row := range reasons {
		m[r] = row.code
	}
	return m
}

func refuse(r oauth.Reason) *oauth.Error {
	row, ok := reasons[r]
	if !ok {
		panic("people: reason without a row: " + string(r))
	}
	return &oauth.Error{Code: row.code, Reason: r, Description: row.text, Param: row.param}
}

// Locked refuses an attempt before the password was looked at. It wraps the
// refusal with [ReasonLocked].
type Locked struct {
	Until time.Time // when the next attempt counts
}

func (l Locked) Error() string { return refuse(ReasonLocked).Error() }

// Unwrap returns the refusal.
func (l Locked) Unwrap() error { return refuse(ReasonLocked) }
