package portal

import (
	"bytes"
	"slices"
	"strings"

	"golang.org/x/text/collate"
	"golang.org/x/text/language"
)

// sortByName puts a list in the order of the reader's language, and numbers in theirs: 2 before 10.
func sortByName[T any](list []T, tag string, name func(T) string) {
	order := collate.New(language.Make(tag), collate.Numeric, collate.IgnoreCase)
	var keys collate.Buffer
	type keyed struct {
		item T
		key  []byte
	}
	sorted := make([]keyed, len(list))
	for i, item := range list {
		sorted[i] = keyed{item, order.KeyFromString(&keys, name(item))}
	}
	slices.SortStableFunc(sorted, func(a, b keyed) int { return bytes.Compare(a.key, b.key) })
	for i := range sorted {
		list[i] = sorted[i].item
	}
}

// The store list shows a search from filterFrom stores on, and pages of storesPerPage.
const (
	filterFrom    = 11
	storesPerPage = 50
)

// storeRow is a store to tick. Reason says why it cannot be given; it is a message id.
type storeRow struct {
	ID, Name, Domain string
	Reason           string
	Ticked           bool
	Note             string // what the app has of it now: a message id
}

// pick is what a customer has done with the list so far: a form value, or the start.
type pick struct {
	Ticked []string // ids; those that are not the customer's to give are dropped
	Query  string
	Page   int // from 1; out of range is brought into it
	All    bool
	None   bool
	But    bool // the app has all stores: those without a tick are left out of them
}

// picker is the list of stores as one page of the form shows it. Ticks outside this page travel in hidden inputs.
type picker struct {
	Rows           []storeRow
	Carried        []string
	Shown          []string // stores that an Allow is about, be they ticked or not, but for Carried; nil where only ticks count
	Query          string
	Ticked         int
	Open           int // stores that can be given
	Found          int // stores that match the search
	Page, Pages    int
	Previous, Next int    // 0 for none
	Filter         bool   // there is a search
	Whole          bool   // every store is in Rows
	Single         bool   // nothing to choose from
	Every          bool   // also stores that come later
	Later          string // what ticking Every means: a message id
}

// newPicker lays out stores, which come sorted. All and None tick what the search finds.
func newPicker(stores []storeRow, p pick) *picker {
	out := &picker{Later: "stores.every", Query: clean(p.Query), Filter: len(stores) >= filterFrom}
	ticked := make(map[string]bool, len(p.Ticked))
	for _, id := range p.Ticked {
		ticked[id] = true
	}
	query := strings.ToLower(out.Query)
	var found []storeRow
	var carried []string
	for _, s := range stores {
		s.Ticked = ticked[s.ID] && s.Reason == ""
		hit := query == "" || strings.Contains(strings.ToLower(s.Name+" "+s.Domain), query)
		if hit && s.Reason == "" && (p.All || p.None) {
			s.Ticked = p.All
		}
		if s.Reason == "" {
			out.Open++
		}
		if s.Ticked {
			out.Ticked++
		}
		if hit {
			found = append(found, s)
		} else if s.Ticked {
			carried = append(carried, s.ID)
		} else if p.But && s.Reason == "" {
			out.Shown = append(out.Shown, s.ID)
		}
	}
	out.Found = len(found)
	out.Pages = max(1, (len(found)+storesPerPage-1)/storesPerPage)
	out.Page = min(max(1, p.Page), out.Pages)
	if p.But {
		out.Later = "stores.every_but"
	}
	if out.Page > 1 {
		out.Previous = out.Page - 1
	}
	if out.Page < out.Pages {
		out.Next = out.Page + 1
	}
	from := (out.Page - 1) * storesPerPage
	to := min(from+storesPerPage, len(found))
	for i, s := range found {
		switch here := from <= i && i < to; {
		case s.Ticked && !here:
			carried = append(carried, s.ID)
		case p.But && s.Reason == "":
			out.Shown = append(out.Shown, s.ID)
		}
	}
	out.Rows, out.Carried = slices.Clone(found[from:to]), carried
	out.Whole = len(out.Rows) == len(stores)
	out.Single = len(stores) == 1
	return out
}
