#!/bin/sh
# Read folders of opkit's shards with The Well's own reader, in an environment of its own (the_well pins fsspec).
#
#     scripts/check_the_well.sh datasets/data/darcy/<key>/test ...
#
# The environment is made once, in $WELL_VENV (build/the-well if unset).
set -eu
venv=${WELL_VENV:-build/the-well}
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import the_well' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet 'the_well==1.2.0'
fi
exec "$venv/bin/python" "$(dirname "$0")/check_the_well.py" "$@"
