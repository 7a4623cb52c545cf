#!/bin/sh
# Installs requirements.lock and this project into a virtual environment. Needs Python 3.11 or later and nothing else:
# pip installs the pinned uv, and uv installs the rest. `make setup` runs it when the lock has changed.
set -eu

venv=$1
enough='import sys; sys.exit(sys.version_info < (3, 11))'

if ! "$venv/bin/python" -c "$enough" 2>/dev/null; then
    python=
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c "$enough" 2>/dev/null; then python=$candidate && break; fi
    done
    if [ -z "$python" ]; then
        echo "Accepted needs Python 3.11 or later; found: $(${PYTHON:-python3} --version 2>&1 | head -n 1)" >&2
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$python has no venv module: install it (on Debian and Ubuntu the package python3-venv)" >&2
        exit 1
    fi
    "$python" -m venv --clear "$venv"
fi

locked=$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.lock)
if [ "$("$venv/bin/uv" --version 2>/dev/null | cut -d ' ' -f 2)" != "$locked" ]; then
    "$venv/bin/python" -m ensurepip --default-pip >/dev/null  # an environment that uv made has none
    sed -n '/^uv==/,/[^\\]$/p' requirements.lock >"$venv/uv.lock"
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes -r "$venv/uv.lock"
fi

"$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" requirements.lock
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable .
