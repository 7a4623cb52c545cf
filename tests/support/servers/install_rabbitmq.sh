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
sh "$(dirname "$0")/install_package.sh" rabbitmq-server
