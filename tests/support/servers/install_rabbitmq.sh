#!/bin/sh
# Makes sure that the tests can start a RabbitMQ node of their own. Installs the Debian package where that is
# possible, without the service that comes with it being started.
set -eu

test -n "${TEST_AMQP_URL:-}" && exit 0
test -x /usr/lib/rabbitmq/bin/rabbitmq-server && exit 0
command -v rabbitmq-server >/dev/null && exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need RabbitMQ: install the package rabbitmq-server (3.10 or later), or set TEST_AMQP_URL." >&2
    exit 1
fi

# invoke-rc.d asks this script whether a package may start its service: 101 says no (Debian Policy 9.3.3).
policy=/usr/sbin/policy-rc.d
kept=$(mktemp -d)
restore() {
    rm -f "$policy"
    if [ -e "$kept/policy-rc.d" ]; then mv "$kept/policy-rc.d" "$policy"; fi
    rm -rf "$kept"
}
if [ -e "$policy" ]; then mv "$policy" "$kept/policy-rc.d"; fi
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -q && apt-get install -qy --no-install-recommends rabbitmq-server; } >"$kept/log" 2>&1; then
    tail -n 20 "$kept/log" >&2
    echo "The tests need RabbitMQ, and installing the package rabbitmq-server failed (see above)." >&2
    exit 1
fi
