package main

import (
	"bufio"
	"encoding/json"
	"os"
)

// progress remembers rounds in a file, a line each, so that a campaign goes on where
// it was stopped.
type progress struct {
	build   string
	file    *os.File // nil: nothing is kept
	results []result // of this build
}

func openProgress(path, build string) (*progress, error) {
	s := &progress{build: build}
	if path == "" {
		return s, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	s.file = f
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var r result
		// A line that was cut short is a round that is played again.
		if json.Unmarshal(lines.Bytes(), &r) == nil && r.Build == build {
			s.results = append(s.results, r)
		}
	}
	return s, nil
}

func (s *progress) has(f fault, seed uint64) bool {
	for _, r := range s.results {
		if r.Fault == f.name && r.Engine == f.engine && r.Seed == seed {
			return true
		}
	}
	return false
}

func (s *progress) add(r result) error {
	r.Build = s.build
	s.results = append(s.results, r)
	if s.file == nil {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = s.file.Write(append(line, '\n'))
	return err
}

func (s *progress) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
