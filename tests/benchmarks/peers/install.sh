#!/bin/sh
# install.sh HOME VENV: puts the peers of `make bench-peers` into HOME, at the versions of requirements.txt and
# package-lock.json. HOME/python is a virtual environment, HOME/node has node_modules. VENV is ours, for its uv.
# Installs Redis, Node and npm from Debian where they are missing and that is possible.
set -eu

home=$1
venv=$2
here=$(dirname "$0")

need() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "make bench-peers needs $1: install the package $2" >&2
        exit 1
    fi
    sh "$here/../../support/servers/install_package.sh" "$2"
}

need redis-server redis-server
need node nodejs
need npm npm

test -x "$home/python/bin/python" || "$venv/bin/python" -m venv --without-pip "$home/python"
"$venv/bin/uv" pip sync --quiet --python "$home/python/bin/python" "$here/requirements.txt"

mkdir -p "$home/node"
if ! cmp -s "$here/package-lock.json" "$home/node/installed"; then
    cp "$here/package.json" "$here/package-lock.json" "$home/node/"
    npm ci --prefix "$home/node" --no-audit --no-fund --silent
    cp "$here/package-lock.json" "$home/node/installed"
fi
