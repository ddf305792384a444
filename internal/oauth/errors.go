package oauth

import (
	"errors"
	"fmt"
	"time"
)

// Code is the wire code of a refusal. The OAuth ones are those of RFC 6749,
// sections 4.1.2.1 and 5.2, and RFC 7009, section 2.2.1; the others belong to the
// management use-cases.
type Code string

// The wire codes.
const (
	InvalidRequest          Code = "invalid_request"
	InvalidClient           Code = "invalid_client"
	InvalidGrant            Code = "invalid_grant"
	UnauthorizedClient      Code = "unauthorized_client"
	UnsupportedGrantType    Code = "unsupported_grant_type"
	UnsupportedResponseType Code = "unsupported_response_type"
	InvalidScope            Code = "invalid_scope"
	InvalidGrantID          Code = "invalid_grant_id" // Grant Management for OAuth 2.0
	AccessDenied            Code = "access_denied"
	ServerError             Code = "server_error"
	TemporarilyUnavailable  Code = "temporarily_unavailable"

	NotFound  Code = "not_found"
	Conflict  Code = "conflict"
	Forbidden Code = "forbidden"
	Incorrect Code = "incorrect" // a form field that its author can mend
)

// Reason is the stable why of a refusal. It goes to logs, events and metrics and,
// where a dialect has more than one code for one of ours (Komerza's invalid_code
// and code_expired), decides the wire code. Reasons are never renamed.
type Reason string

// Error is a refusal. It carries no HTTP status: each dialect maps Code and
// Reason to its own (DESIGN, decision 10).
type Error struct {
	Code        Code
	Reason      Reason
	Description string        // for the developer or user who must act; %x20-21 / %x23-5B / %x5D-7E only (RFC 6749, 5.2)
	Param       string        // the parameter or form field at fault, if one is
	RetryAfter  time.Duration // when to try again, if that is known
	Cause       error         // logged, never sent
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s (%s): %v", e.Code, e.Reason, e.Cause)
	}
	return fmt.Sprintf("%s (%s)", e.Code, e.Reason)
}

func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, &Error{Reason: r}) and {Code: c} work as patterns.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && (t.Code == "" || t.Code == e.Code) && (t.Reason == "" || t.Reason == e.Reason)
}

// Anonymous reports whether the caller was refused at authentication, so that nobody
// is known to have asked.
func (e *Error) Anonymous() bool {
	return e.Code == InvalidClient || e.Reason == ProfileMismatch
}

// ReasonOf returns the reason of err, or "" if err is not a refusal.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

// AsError returns err as a refusal. Whatever is not one becomes server_error, so
// that the text of an unknown error never reaches a user.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, ErrUnknown) {
		return &Error{Code: TemporarilyUnavailable, Reason: OutcomeUnknown, Description: reasons[OutcomeUnknown].text, Cause: err}
	}
	if errors.Is(err, ErrUnavailable) {
		return &Error{Code: TemporarilyUnavailable, Reason: StorageUnavailable, Description: reasons[StorageUnavailable].text, Cause: err}
	}
	return &Error{Code: ServerError, Reason: Internal, Description: reasons[Internal].text, Cause: err}
}

// refuse builds the refusal of reason r from the one table of reasons.
func refuse(r Reason) *Error {
	row, ok := reasons[r]
	if !ok {
		panic("oauth: reason without a row: " + string(r))
	}
	return &Error{Code: row.code, Reason: r, Description: row.text, Param: row.param}
}

// refuseBecause keeps what led to the refusal, for the log.
func refuseBecause(r Reason, err error) *Error {
	e := refuse(r)
	e.Cause = err
	return e
}

// Refuse builds the refusal of reason r: for the packages beside this one, so that
// each reason keeps one code and one sentence.
func Refuse(r Reason) *Error { return refuse(r) }

func refuseParam(r Reason, param string) *Error {
	e := refuse(r)
	e.Param = param
	e.Description = fmt.Sprintf(e.Description, param)
	return e
}

func refuseCause(r Reason, cause error) *Error {
	e := refuse(r)
	e.Cause = cause
	return e
}
