package oauth

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// allotment hands out status indices from blocks that belong to this node for
// ever. Inside a block the order is random, so that an index does not say how
// many keys there are; what a node does not use is abandoned.
type allotment struct {
	mu     sync.Mutex
	blocks map[string][]int64 // kind → unused indices
}

const blockSize = 1024

// The kinds of status lists.
const (
	keyList    = "key"
	familyList = "family"
)

func (s *Server) nextIndex(ctx context.Context, p Profile) (int64, error) {
	kind := familyList
	if p.Lasting {
		kind = keyList
	}
	s.indices.mu.Lock()
	defer s.indices.mu.Unlock()
	if len(s.indices.blocks[kind]) == 0 {
		first, err := s.storage.AllotIndices(ctx, s.api.ID, kind, blockSize)
		if err != nil {
			return 0, err
		}
		block, err := s.shuffled(first)
		if err != nil {
			return 0, err
		}
		if s.indices.blocks == nil {
			s.indices.blocks = map[string][]int64{}
		}
		s.indices.blocks[kind] = block
	}
	block := s.indices.blocks[kind]
	s.indices.blocks[kind] = block[:len(block)-1]
	return block[len(block)-1], nil
}

func (s *Server) shuffled(first int64) ([]int64, error) {
	block := make([]int64, blockSize)
	random := make([]byte, 4*blockSize)
	if _, err := io.ReadFull(s.rand, random); err != nil {
		return nil, fmt.Errorf("oauth: reading randomness: %w", err)
	}
	for i := range block {
		block[i] = first + int64(i)
		j := int(binary.BigEndian.Uint32(random[4*i:]) % uint32(i+1))
		block[i], block[j] = block[j], block[i]
	}
	return block, nil
}
