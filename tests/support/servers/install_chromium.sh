#!/bin/sh
# Makes sure that the tests can look at the dashboard in a browser. Installs the Debian package of Chromium where that
# is possible; elsewhere those tests are skipped.
set -eu

command -v chromium >/dev/null && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Without chromium the tests of the dashboard in a browser are skipped." >&2
    exit 0
fi
sh "$(dirname "$0")/install_package.sh" chromium
