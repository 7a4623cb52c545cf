#!/bin/sh
# Makes sure that the tests can check alarm rules with promtool. Installs the Debian package that has it where that is
# possible, without the service that comes with it being started; elsewhere those tests are skipped.
set -eu

command -v promtool >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Without promtool (package prometheus) the tests of deploy/prometheus are skipped." >&2
    exit 0
fi
sh "$(dirname "$0")/install_package.sh" prometheus
