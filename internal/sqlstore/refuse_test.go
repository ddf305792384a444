package sqlstore

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// oneLine opens a database that cannot be used, and holds what is said against what
// the operator has to know.
func oneLine(t *testing.T, dsn string, want ...string) {
	t.Helper()
	s, err := Open(t.Context(), dsn)
	if err == nil {
		err = s.Migrate(t.Context())
		s.Close()
	}
	if err == nil {
		t.Errorf("%s: no error", dsn)
		return
	}
	said := err.Error()
	for _, w := range want {
		if !strings.Contains(said, w) {
			t.Errorf("%s: %q does not say %q", dsn, said, w)
		}
	}
	if strings.Contains(said, "hunter2") || strings.Contains(said, "\n") {
		t.Errorf("%s: %q", dsn, said)
	}
}

func TestOpen_SaysInOneLineWhatIsWrongWithAFile(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no database\n", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(dir, "damaged.db")
	if err := openAt(t, damaged).Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	copy(data[100:], bytes.Repeat([]byte{0xff}, 1000)) // past the header that says what it is
	if err := os.WriteFile(damaged, data, 0o600); err != nil {
		t.Fatal(err)
	}
	before, listed := data, names(t, dir)

	oneLine(t, dir, dir, "is a directory", "name a file in it")
	oneLine(t, filepath.Join(dir, "missing", "g.db"), "missing/g.db", "no such file or directory", "name a file in a folder that is there")
	oneLine(t, text, "notes.txt", "file is not a database", "name the right one")
	oneLine(t, damaged, "damaged.db", "malformed", "put a backup in its place")
	for _, file := range []string{text, damaged} {
		if s, err := Open(t.Context(), file); err == nil {
			s.Close()
			t.Errorf("%s is only refused when it is written to", file)
		}
	}
	if after, err := os.ReadFile(damaged); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the damaged file was written to (%v)", err)
	}
	if now := names(t, dir); now != listed {
		t.Errorf("files were left behind: %s, before: %s", now, listed)
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// A disk that is full or may not be written, as strace makes it for a process of its
// own: the superuser, who may be running this, is refused no file otherwise.
func TestOpen_SaysInOneLineWhatIsWrongWithTheDisk(t *testing.T) {
	strace := storagetest.Strace(t)
	for _, tc := range []struct{ name, inject, want string }{
		{"full", "pwrite64:error=ENOSPC", "full (13): make room on that disk"},
		{"read-only", "openat:error=EROFS", "read-only file system: grantway must be able to write this file and its folder"},
		{"not allowed", "openat:error=EACCES", "permission denied: grantway must be able to write this file and its folder: chown them to the user that it runs as"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "g.db")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(strace, "-f", "-o", os.DevNull, "-P", path, "-e", "trace=openat,pwrite64", "-e", "inject="+tc.inject, os.Args[0])
			cmd.Env = append(os.Environ(), writerHelper+"="+path, writerHelper+"_ACT=migrate")
			out, err := cmd.Output()
			if said := strings.TrimSpace(string(out)); err != nil || !strings.Contains(said, tc.want) || strings.Contains(said, "\n") {
				t.Errorf("said %q, want %q (%v)", said, tc.want, err)
			}
			if info, err := os.Stat(path); err != nil || info.Size() != 0 {
				t.Errorf("the file was written to (%v)", err)
			}
		})
	}
}

func TestOpen_SaysInOneLineWhatIsWrongWithAServer(t *testing.T) {
	certificate, key := selfSigned(t)
	server := storagetest.StartServer(t, storagetest.Setup{
		Files: map[string]string{
			"server.crt": certificate, "server.key": key,
			"hba": "host all barred 127.0.0.1/32 reject\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
		},
		Options: []string{"ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key", "hba_file=hba"},
	})
	admin := direct(t, server.URL+"postgres")
	run(t, admin, "CREATE ROLE someone LOGIN PASSWORD 'the right one'")
	run(t, admin, "CREATE ROLE barred LOGIN")
	run(t, admin, "CREATE ROLE crowded LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 0")
	run(t, admin, "CREATE DATABASE ours")
	at := "postgres://someone:hunter2@" + server.Addr

	trusting := storagetest.StartServer(t, storagetest.Setup{})
	oneLine(t, at+"/postgres", `does not accept this password for the user "someone"`, "check both")
	oneLine(t, "postgres://stranger@"+trusting.Addr+"/postgres", `has no user "stranger"`, "create it")
	oneLine(t, "postgres://someone:hunter2@nowhere.invalid/x", "reaching the database: lookup nowhere.invalid", "check the host in the database URL")
	oneLine(t, "postgres://barred@"+server.Addr+"/postgres", `"barred"`, "pg_hba.conf)")
	oneLine(t, "postgres://crowded:hunter2@"+server.Addr+"/postgres", "too many connections", "needs 23 connections")
	oneLine(t, server.URL+"nowhere", `has no database "nowhere"`, "create it")
	authority := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(authority, []byte(certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(server.Addr, ":")
	oneLine(t, "postgres://someone:hunter2@localhost:"+port+"/postgres?sslmode=verify-full", "certificate signed by unknown authority", "sslrootcert=FILE")
	oneLine(t, at+"/postgres?sslmode=verify-ca", "certificate signed by unknown authority", "sslrootcert=FILE")
	oneLine(t, at+"/postgres?sslmode=verify-full&sslrootcert="+authority, "127.0.0.1", "the host that it was made for")
	oneLine(t, at+"/postgres?sslmode=verify-full&sslrootcert=/missing.pem", "/missing.pem", "no such file", "in PEM")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	oneLine(t, at+"/postgres?sslmode=verify-full&sslrootcert="+empty, "sslrootcert names the file", "in PEM")
	oneLine(t, "postgres://someone:hunter2@127.0.0.1:1,127.0.0.1:2/none", "127.0.0.1:1", "127.0.0.1:2", "refused", "that a server runs there")
	oneLine(t, server.URL+"postgres?sslmod=require", `"sslmod"`, "check the words after the ?")
	oneLine(t, "postgres://someone:the%20right%20one@"+server.Addr+"/postgres", "migrating the database", "own the database")
	oneLine(t, trusting.URL+"postgres?sslmode=require", "refused TLS", "ssl = on", "sslmode=disable")
	if err := CheckName(at + "/postgres?sslmode=banana"); err == nil || err.Error() != "reading the database URL: sslmode is not one that there is: write disable, require, verify-ca or verify-full" {
		t.Errorf("said %v", err)
	}
	for _, url := range []string{"postgres://someone:hunter2@[::1", "postgres://someone:hunter2%zz@db/x", "postgres://someone:hunter2@db:port/x"} {
		oneLine(t, url, "reading the database URL: ")
	}

	if said := unreadable(at, errors.New("cannot parse `postgres://…`: something about hunter2")); strings.Contains(said, "hunter2") || !strings.Contains(said, "write postgres://") {
		t.Errorf("said %q", said)
	}

	// Tables that one may not read are not none.
	ours, err := Open(t.Context(), server.URL+"ours")
	if err == nil {
		err = errors.Join(ours.Migrate(t.Context()), ours.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, revoke := range []string{"SELECT", "USAGE"} { // on the tables, as it is, then on the schema
		if revoke == "USAGE" {
			run(t, direct(t, server.URL+"ours"), "REVOKE ALL ON SCHEMA public FROM PUBLIC")
		}
		_, err := Open(t.Context(), "postgres://someone:the%20right%20one@"+server.Addr+"/ours")
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.HasSuffix(err.Error(), "and the tables in it") {
			t.Errorf("tables of somebody else's, without %s: %v", revoke, err)
		}
	}

	// With the authority and the name that the certificate is for, it is fine.
	s, err := Open(t.Context(), "postgres://someone:the%20right%20one@localhost:"+port+"/postgres?sslmode=verify-full&sslrootcert="+authority)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if empty, err := s.Empty(t.Context()); err != nil || !empty {
		t.Errorf("something was written: %v", err)
	}
}

// selfSigned makes a certificate for localhost.
func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	is := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, is, is, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs}))
}

// A character that ends the password in a URL is a mistake of the URL, and what follows it
// is no host, port or database that a message may name.
func TestCheckName_PasswordWithDelimiters(t *testing.T) {
	for _, password := range []string{"hunter@2secret", "1@2secret", "1/2secret", "1#2secret", "hunter/2secret", "hunter#2secret", "hunter:2@secret"} {
		for _, host := range []string{"127.0.0.1:1", "db1,db2"} {
			err := CheckName("postgres://someone:" + password + "@" + host + "/x")
			if err == nil || err.Error() != "reading the database URL: "+urlForm {
				t.Errorf("%s at %s: %v", password, host, err)
			}
		}
	}
	for good, password := range map[string]string{"hunter%402%2Fsecret%3F%23": "hunter@2/secret?#", "hun:ter?!$&'()*+,;=-._~": "hun:ter?!$&'()*+,;=-._~"} {
		c, err := parseURL("postgres://someone:" + good + "@127.0.0.1:1,127.0.0.1:2/x?sslmode=disable&options=a@b")
		if err != nil || c.ConnConfig.Password != password {
			t.Errorf("%s: %v", good, err)
		}
	}
}
