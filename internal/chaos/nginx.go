package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// nginx starts an nginx in front of nodes, with what docs/operating.md tells operators
// to set and more. It listens on address, or on a free one, and returns that.
func (st *stage) nginx(ctx context.Context, n *network, address, more string, nodes ...string) (string, error) {
	if address == "" {
		var err error
		if address, err = storagetest.FreeAddress(); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(st.dir, "nginx")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "daemon off; worker_processes 1; error_log %[1]s/error.log; pid %[1]s/pid;\n", dir)
	if os.Geteuid() == 0 {
		b.WriteString("user root;\n") // so that the worker may write here
	}
	b.WriteString("events { worker_connections 1024; }\nhttp {\naccess_log off;\n")
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "%s_temp_path %s;\n", kind, filepath.Join(dir, kind))
	}
	b.WriteString("upstream grantway {\n")
	for _, n := range nodes {
		fmt.Fprintf(&b, "server %s fail_timeout=1s;\n", n)
	}
	fmt.Fprintf(&b, `keepalive 64;
}
server {
listen %s;
large_client_header_buffers 4 2m;
proxy_buffer_size 64k;
proxy_buffers 8 64k;
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_set_header Host $host;
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
%s
location / { proxy_pass http://grantway; }
}
}
`, address, more)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return "", err
	}
	args := []string{"/usr/sbin/nginx", "-c", file, "-p", dir} // not in everybody's PATH
	if n != nil {
		args = append(n.nsenter(), args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := startLogged(cmd, filepath.Join(dir, "said.log")); err != nil {
		return "", fmt.Errorf("nginx (Debian package nginx-light): %w", err)
	}
	st.onClose(func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait() // it was ended
		return err
	})
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	err := until(ctx, startWithin, func() bool {
		resp, err := client.Get("http://" + address + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	return address, err
}
