#!/bin/sh
# install_package.sh PACKAGE: installs a Debian package without the service that comes with it being started. As root.
set -eu

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
if ! { apt-get update -q && apt-get install -qy --no-install-recommends "$1"; } >"$kept/log" 2>&1; then
    tail -n 20 "$kept/log" >&2
    echo "Installing the package $1 failed (see above)." >&2
    exit 1
fi
