#!/bin/sh
# Starts meshwrightd and brings the node up, from the environment alone: for containers.
#
#   MESHWRIGHT_LOGIN_SERVER  address of the control server; needed for the first login
#   MESHWRIGHT_AUTH_KEY      auth key; MESHWRIGHT_AUTH_KEY_FILE names a file that holds it
#   MESHWRIGHT_HOSTNAME      name of the node (default: that of the container)
#   MESHWRIGHT_STATE_DIR     folder of the state (default /var/lib/meshwright); "mem:" keeps none
#   MESHWRIGHT_SOCKET        socket for the command line (default /tmp/meshwrightd.sock)
#   MESHWRIGHT_TUN           name of a TUN device; without it, userspace networking
#   MESHWRIGHT_SOCKS5        [ip]:port of a SOCKS5 proxy into the mesh
#   MESHWRIGHT_ROUTES        routes to offer, separated by commas
#   MESHWRIGHT_UP_ARGS       more flags for "meshwright up"
#   MESHWRIGHTD_FLAGS        more flags for the daemon
#
# SIGTERM and SIGINT end the daemon in order; its exit status is ours.
set -eu

state=${MESHWRIGHT_STATE_DIR:-/var/lib/meshwright}
socket=${MESHWRIGHT_SOCKET:-/tmp/meshwrightd.sock}
daemon=${MESHWRIGHTD:-meshwrightd}
cli=${MESHWRIGHT:-meshwright}

set -- "--socket=$socket"
if [ "$state" = mem: ]; then set -- "$@" --state=mem:; else set -- "$@" "--statedir=$state"; fi
if [ -n "${MESHWRIGHT_TUN:-}" ]; then set -- "$@" "--tun=$MESHWRIGHT_TUN"; fi
if [ -n "${MESHWRIGHT_SOCKS5:-}" ]; then set -- "$@" "--socks5-server=$MESHWRIGHT_SOCKS5"; fi
# Several flags in one variable are several words.
# shellcheck disable=SC2086
$daemon "$@" ${MESHWRIGHTD_FLAGS:-} &
pid=$!
stopping=
up=
trap 'stopping=yes; kill -TERM $pid $up 2>/dev/null || true' TERM INT

# Waits for a child of ours to its end: a signal interrupts the wait.
ended() {
  status=0
  wait "$1" || status=$?
  while kill -0 "$1" 2>/dev/null; do
    status=0
    wait "$1" || status=$?
  done
}

tries=0
until $cli "--socket=$socket" version --daemon >/dev/null 2>&1; do
  if ! kill -0 $pid 2>/dev/null; then
    ended $pid
    if [ -n "$stopping" ]; then exit "$status"; fi
    echo "meshwright-entrypoint: meshwrightd ended with status $status before it was ready" >&2
    exit "$status"
  fi
  tries=$((tries + 1))
  if [ $tries -gt 300 ]; then
    echo "meshwright-entrypoint: meshwrightd does not answer on $socket" >&2
    kill -TERM $pid
    exit 1
  fi
  sleep 0.1
done

set -- up
if [ -n "${MESHWRIGHT_LOGIN_SERVER:-}" ]; then set -- "$@" "--login-server=$MESHWRIGHT_LOGIN_SERVER"; fi
if [ -n "${MESHWRIGHT_HOSTNAME:-}" ]; then set -- "$@" "--hostname=$MESHWRIGHT_HOSTNAME"; fi
if [ -n "${MESHWRIGHT_ROUTES:-}" ]; then set -- "$@" "--advertise-routes=$MESHWRIGHT_ROUTES"; fi
# By file: a key on the command line is there for everyone to see.
if [ -n "${MESHWRIGHT_AUTH_KEY_FILE:-}" ]; then
  set -- "$@" "--auth-key=file:$MESHWRIGHT_AUTH_KEY_FILE"
elif [ -n "${MESHWRIGHT_AUTH_KEY:-}" ]; then
  umask 077
  key=$(mktemp)
  printf '%s\n' "$MESHWRIGHT_AUTH_KEY" >"$key"
  set -- "$@" "--auth-key=file:$key"
fi
# Beside this shell: it may wait for a person, and a shell hears no signal while it waits for a command.
# shellcheck disable=SC2086
$cli "--socket=$socket" "$@" ${MESHWRIGHT_UP_ARGS:-} &
up=$!
ended $up
up=
if [ -n "${key:-}" ]; then rm -f "$key"; fi
if [ -z "$stopping" ] && [ "$status" -ne 0 ]; then
  failed=$status
  echo "meshwright-entrypoint: \"meshwright up\" ended with status $failed" >&2
  kill -TERM $pid 2>/dev/null || true
  ended $pid
  exit "$failed"
fi

ended $pid
exit "$status"
