package people

import "sync/atomic"

// Cheap makes hashing fast enough for tests that hash hundreds of times; memory is
// in KiB.
func (s *Service) Cheap(memory uint32) { s.hashes.params = params{memory: memory, time: 1, threads: 1} }

// CountHashes counts the calls of the hash function from now on.
func (s *Service) CountHashes() *atomic.Int64 {
	n := new(atomic.Int64)
	derive := s.hashes.derive
	s.hashes.derive = func(password, salt []byte, p params, length uint32) []byte {
		n.Add(1)
		return derive(password, salt, p, length)
	}
	return n
}

// HoldHashes gives the queue room for n and makes the hash function wait for
// release; each call tells entered first.
func (s *Service) HoldHashes(n int64) (entered <-chan struct{}, release chan<- struct{}) {
	in, out := make(chan struct{}, n), make(chan struct{})
	s.hashes.room = n
	derive := s.hashes.derive
	s.hashes.derive = func(password, salt []byte, p params, length uint32) []byte {
		in <- struct{}{}
		<-out
		return derive(password, salt, p, length)
	}
	return in, out
}

// RecordParams notes with what parameters and lengths each hash is made from now on.
func (s *Service) RecordParams() *[]string {
	var list []string
	derive := s.hashes.derive
	s.hashes.derive = func(password, salt []byte, p params, length uint32) []byte {
		list = append(list, phc{p, make([]byte, len(salt)), make([]byte, length)}.String())
		return derive(password, salt, p, length)
	}
	return &list
}
