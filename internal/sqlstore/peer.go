package sqlstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// readOnly is the SQLSTATE of a write on a server that takes none: a standby, or
// one that was told so (read_only_sql_transaction).
const readOnly = "25006"

var errReadOnly = errors.New("the server takes no writes: it is a standby, or default_transaction_read_only is on; name the primary, or every server of the cluster (host1,host2)")

// peer is what a new connection finds at its other end.
type peer struct {
	pooled bool   // a pooler hands its transactions to changing servers
	commit string // synchronous_commit
}

// askPeer asks in a way that every server and pooler understands, and fails with
// errReadOnly. A pooler makes up the process id of the greeting, so it differs from
// that of the server behind.
func askPeer(ctx context.Context, c *pgconn.PgConn) (p peer, err error) {
	answers, err := c.Exec(ctx, "SELECT pg_backend_pid(), current_setting('synchronous_commit'), current_setting('transaction_read_only')").ReadAll()
	if err != nil {
		return p, err
	}
	if len(answers) != 1 || len(answers[0].Rows) != 1 {
		return p, errors.New("the server does not answer as PostgreSQL does")
	}
	row := answers[0].Rows[0]
	if string(row[2]) == "on" {
		return p, errReadOnly
	}
	return peer{pooled: string(row[0]) != fmt.Sprint(c.PID()), commit: string(row[1])}, nil
}

// waits reports whether a commit is answered only when it is on disk, and on the
// synchronous standby if there is one.
func (p peer) waits() bool { return p.commit != "off" && p.commit != "local" }

// suit makes the configuration suit what stands at the address, which one
// connection finds out. It returns that one: its session is as it was found, so
// nothing may be committed on it. After that every new connection is asked the same,
// and where there are several hosts the next one is tried.
//
// A server that takes no writes is never used, not even to read: a standby may be
// behind, and what was revoked would live on there.
//
// The session is told to wait for the sync, so that a server whose default is not
// to cannot lose what was acknowledged. Behind a pooler no session is ours, so
// nothing can be told to it, and nothing that was prepared is found again: there
// each statement is described once and then sent whole.
func suit(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	hasty := func(p peer) error {
		return fmt.Errorf("synchronous_commit is %s behind this pooler, so what was acknowledged could be lost: run ALTER ROLE %q SET synchronous_commit = on, and have the pooler reconnect", p.commit, config.User)
	}
	var first peer
	config.ValidateConnect = func(ctx context.Context, c *pgconn.PgConn) (err error) {
		if first, err = askPeer(ctx, c); err == nil && first.pooled && !first.waits() {
			err = hasty(first)
		}
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	prepared := config.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement
	switch {
	case first.pooled && prepared:
		config.DefaultQueryExecMode, prepared = pgx.QueryExecModeCacheDescribe, false
	case first.pooled:
	case first.waits():
		config.RuntimeParams["synchronous_commit"] = first.commit
	default:
		config.RuntimeParams["synchronous_commit"] = "on"
	}
	config.ValidateConnect = func(ctx context.Context, c *pgconn.PgConn) error {
		switch p, err := askPeer(ctx, c); {
		case err != nil:
			return err
		case !p.waits():
			return hasty(p)
		case p.pooled && prepared:
			return errors.New("a pooler stands before the server now, and did not at the start: restart grantway")
		}
		return nil
	}
	return conn, nil
}

// unreachable says in one line why no connection came about, and what to do. pgx
// tries each host and address, with and without TLS, and gives a line to each; the
// same cause is said once.
func unreachable(config *pgx.ConnConfig, err error) error {
	var whys []string
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), fmt.Sprintf("failed to connect to `user=%s database=%s`:", config.User, config.Database)))
		line = strings.TrimPrefix(line, "hostname resolving error: ")
		if line != "" && !slices.Contains(whys, line) {
			whys = append(whys, line)
		}
	}
	why := strings.Join(whys, "; ")
	refusal, _ := errors.AsType[*pgconn.PgError](err)
	certificate := aboutCertificate(err)
	_, unknown := errors.AsType[*net.DNSError](err)
	_, network := errors.AsType[*net.OpError](err)
	switch {
	case refusal != nil && refusal.Code == "28P01":
		why = fmt.Sprintf("the server does not accept this password for the user %q: check both in the database URL", config.User)
	case refusal != nil && refusal.Code == "28000" && strings.HasSuffix(refusal.Message, "does not exist"):
		why = fmt.Sprintf("the server has no user %q: create it (CREATE ROLE … LOGIN), or name the right one in the database URL", config.User)
	case refusal != nil && refusal.Code == "28000":
		why = fmt.Sprintf("the server says: %s: let this machine in (pg_hba.conf)", refusal.Message)
	case refusal != nil && refusal.Code == "53300":
		why = fmt.Sprintf("the server says: %s: a node needs %d connections; raise max_connections, or the role's limit", refusal.Message, poolMax+1)
	case refusal != nil && refusal.Code == "3D000":
		why = fmt.Sprintf("the server has no database %q: create it, or name the right one in the database URL", config.Database)
	case refusal != nil && refusal.Code == "42704":
		why = fmt.Sprintf("the server says: %s: check the words after the ? in the database URL", refusal.Message)
	case strings.Contains(why, "server refused TLS connection"):
		why += ": let the server have a certificate (ssl = on), or write sslmode=disable if nobody else can read that network"
	case unknown && refusal == nil && !certificate:
		why += ": check the host in the database URL"
	case network && refusal == nil && !certificate:
		why += ": check the address in the database URL, and that a server runs there"
	case certificate:
		why += ": name the file of the authority that signed it (sslrootcert=FILE) and the host that it was made for"
	}
	return fmt.Errorf("reaching the database: %s", why)
}

// aboutCertificate reports whether a server's certificate was refused. Which of these it
// is depends on what of it is asked for (sslmode).
func aboutCertificate(err error) bool {
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	return verification || authority || invalid
}
