package oauth

import (
	"context"
	"time"
)

// Bucket says how often something may happen: Size times at once, and Refill times
// more after each Every. The zero Bucket sets no limit.
//
// Tokens drip in one by one. Who counts on Refill of them at the end of each Every
// finds at least as many.
type Bucket struct {
	Size, Refill int
	Every        time.Duration
}

// Each is how long one takes to come back.
func (b Bucket) Each() time.Duration {
	return max(time.Microsecond, b.Every/time.Duration(max(1, b.Refill)))
}

// Lasts is how long all but one of them take to come back.
func (b Bucket) Lasts() time.Duration { return time.Duration(b.Size-1) * b.Each() }

// Allowance is how many decisions may be made, and which count together.
type Allowance struct {
	Of   string
	Most Bucket
}

// allowance counts what a user presses, whatever the app. What nobody pressed counts at the
// app alone: any website can send a browser to an app's silent consent again and again, and
// must not keep the user from deciding.
func (s *Server) allowance(u *User, c *Client, silent bool) Allowance {
	of := "decisions of " + u.ID
	if silent {
		of += " at " + c.ID
	}
	return Allowance{of, s.decisions}
}

// whyNotDecided tells a decision for which nothing was left from one beside which something
// changed. It is asked when one lost: an ordinary one does not wait for it.
func (s *Server) whyNotDecided(ctx context.Context, of Allowance) error {
	if of.Most == (Bucket{}) {
		return refuse(Changed)
	}
	at, err := s.storage.NextDecision(ctx, of)
	if err != nil {
		return err
	}
	wait := at.Sub(s.now())
	if wait <= 0 {
		return refuse(Changed)
	}
	e := refuse(DecidedTooOften)
	e.RetryAfter = wait
	return e
}
