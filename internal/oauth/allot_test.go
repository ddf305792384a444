package oauth

import (
	"crypto/rand"
	"slices"
	"testing"
)

// A block is handed out whole, each index once, in an order that nobody can guess, and
// by runs: keys that are issued together have their places in the index of families
// together.
func TestAllot_Block(t *testing.T) {
	s := &Server{rand: rand.Reader}
	const first = 5 * BlockSize
	var runs [2][]int64
	for i := range runs {
		block, err := s.shuffled(first)
		if err != nil {
			t.Fatal(err)
		}
		for run := range slices.Chunk(block, runSize) {
			runs[i] = append(runs[i], slices.Min(run))
			if low, high := slices.Min(run), slices.Max(run); high-low != runSize-1 || low%runSize != 0 {
				t.Errorf("a run goes from %d to %d", low, high)
			}
			if slices.IsSorted(run) {
				t.Errorf("a run goes up from %d", run[0])
			}
		}
		slices.Sort(block)
		if len(block) != BlockSize || block[0] != first || len(slices.Compact(block)) != BlockSize || block[BlockSize-1] != first+BlockSize-1 {
			t.Errorf("%d indices from %d to %d", len(block), block[0], block[len(block)-1])
		}
	}
	if slices.Equal(runs[0], runs[1]) {
		t.Errorf("runs go in the order %v twice", runs[0])
	}
}
