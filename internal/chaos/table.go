package chaos

import (
	"fmt"
	"time"
)

// Row is the result as a line of a table.
func (r Result) Row() string {
	return fmt.Sprintf("| %s | %s | %d | %d | %d | %d | %d | %v | %v | %d |", r.Fault, r.Engine, r.Requests, r.Done, r.Refused, r.Away, r.Unknown,
		r.Gap.Round(time.Millisecond), r.Ready.Round(time.Millisecond), len(r.Violations))
}
