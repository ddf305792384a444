package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// line is a client with one connection. Unlike that of net/http it sends nothing
// twice: where a connection is closed without notice, a request has failed.
type line struct {
	address  string
	conn     net.Conn
	r        *bufio.Reader
	answered int
	dialled  int
	slowest  time.Duration // answer
}

func (l *line) ask(method, target string, header map[string]string, body string) (a answer, err error) {
	if l.conn == nil {
		if l.conn, err = net.Dial("tcp", l.address); err != nil {
			return a, err
		}
		l.r = bufio.NewReader(l.conn)
		l.dialled++
	}
	req := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: test\r\nContent-Length: %d\r\n", method, target, l.address, len(body))
	for k, v := range header {
		req += k + ": " + v + "\r\n"
	}
	began := time.Now()
	l.conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(l.conn, req+"\r\n"+body); err != nil {
		return a, err
	}
	resp, err := http.ReadResponse(l.r, &http.Request{Method: method})
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	l.answered++
	l.slowest = max(l.slowest, time.Since(began))
	if resp.Close {
		l.hangUp()
	}
	a = answer{status: resp.StatusCode, header: resp.Header, body: string(data)}
	if json.Unmarshal(data, &a.doc) != nil {
		a.doc = nil
	}
	return a, nil
}

func (l *line) hangUp() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

func (l *line) post(target string, form url.Values, more map[string]string) (answer, error) {
	header := map[string]string{"Content-Type": formType["Content-Type"]}
	for k, v := range more {
		header[k] = v
	}
	return l.ask("POST", target, header, form.Encode())
}

// shopper is a guest of a direct app, and what it was told.
type shopper struct {
	line
	app     string
	basic   map[string]string // of the API server that asks about its keys
	codes   []string          // redeemed
	keys    []string          // acknowledged, never revoked
	refresh string            // the last one acknowledged
}

// visit is a whole conversation: code, key, question about it, fresh key, question
// about that.
func (s *shopper) visit(pause func()) error {
	pause()
	a, err := s.ask("GET", "/oauth/authorize?"+url.Values{"client_id": {s.app}, "redirect_uri": {"urn:ietf:wg:oauth:2.0:oob:auto"}, "response_type": {"code"}, "state": {"st"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}}.Encode(), nil, "")
	if err != nil || a.text("code") == "" {
		return fmt.Errorf("authorize: %v %d %s", err, a.status, a.body)
	}
	code := a.text("code")
	pause()
	if a, err = s.redeem(code); err != nil || a.status != http.StatusOK {
		return fmt.Errorf("code: %v %d %s", err, a.status, a.body)
	}
	s.codes, s.keys, s.refresh = append(s.codes, code), append(s.keys, a.text("access_token")), a.text("refresh_token")
	pause()
	if err := s.alive(a.text("access_token")); err != nil {
		return err
	}
	pause()
	if a, err = s.renew(); err != nil {
		return err
	}
	pause()
	return s.alive(a.text("access_token"))
}

func (s *shopper) redeem(code string) (answer, error) {
	return s.post("/oauth/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {s.app}, "code": {code},
		"redirect_uri": {"urn:ietf:wg:oauth:2.0:oob:auto"}, "code_verifier": {verifier}}, nil)
}

func (s *shopper) renew() (answer, error) {
	a, err := s.post("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {s.app}, "refresh_token": {s.refresh}}, nil)
	if err != nil || a.status != http.StatusOK {
		return a, fmt.Errorf("refresh: %v %d %s", err, a.status, a.body)
	}
	s.keys, s.refresh = append(s.keys, a.text("access_token")), a.text("refresh_token")
	return a, nil
}

func (s *shopper) alive(key string) error {
	a, err := s.post("/oauth/introspect", url.Values{"token": {key}}, s.basic)
	if err != nil || a.doc["active"] != true {
		return fmt.Errorf("introspection: %v %d %s", err, a.status, a.body)
	}
	return nil
}
