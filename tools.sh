#!/usr/bin/env bash
# Installs what the suite needs and this machine lacks, from Debian's packages, and
# says so. Nothing is skipped silently: what cannot be installed is an error.
set -euo pipefail

command -v go >/dev/null || { echo "Go 1.26 is needed: see https://go.dev/dl/"; exit 1; }

want=()
need() { # need PACKAGE FILE...: any one of the files will do
	local package=$1 f
	shift
	for f in "$@"; do
		if compgen -G "$f" >/dev/null; then return; fi
	done
	want+=("$package")
}
need gcc /usr/bin/gcc /usr/local/bin/gcc # go test -race
need libc6-dev /usr/include/stdlib.h
need git /usr/bin/git /usr/local/bin/git
need python3-minimal /usr/bin/python3 /usr/local/bin/python3
need postgresql '/usr/lib/postgresql/*/bin/initdb'
need pgbouncer /usr/sbin/pgbouncer
need strace /usr/bin/strace
need chromium /usr/bin/chromium /usr/bin/google-chrome
need nodejs /usr/bin/node /usr/local/bin/node "${HOME:-/root}/.nvm/versions/node/*/bin/node"
need npm /usr/bin/npm /usr/local/bin/npm "${HOME:-/root}/.nvm/versions/node/*/bin/npm"
need curl /usr/bin/curl
need nginx-light /usr/sbin/nginx
need caddy /usr/bin/caddy
need patroni /usr/bin/patroni
need etcd-server /usr/bin/etcd
need iproute2 /usr/sbin/ip /sbin/ip /usr/bin/ip

if command -v node >/dev/null && command -v npm >/dev/null; then
	kept=()
	for p in "${want[@]}"; do [[ $p == nodejs || $p == npm ]] || kept+=("$p"); done
	want=("${kept[@]}")
fi
if ((${#want[@]})); then
	echo "Installing from Debian's packages: ${want[*]}"
	sudo=
	if ((EUID != 0)); then
		command -v sudo >/dev/null || { echo "Install these first, as root: ${want[*]}"; exit 1; }
		sudo=sudo
	fi
	# The tests start servers of their own: none of these packages shall start one.
	if [[ ! -e /usr/sbin/policy-rc.d ]]; then
		printf '#!/bin/sh\nexit 101\n' | $sudo install -m 755 /dev/stdin /usr/sbin/policy-rc.d
		trap '$sudo rm /usr/sbin/policy-rc.d' EXIT
	fi
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${want[@]}" >/dev/null
fi
