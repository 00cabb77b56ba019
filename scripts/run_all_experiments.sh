#!/bin/sh
# All experiments of the standard set: the same as `sixgig run all`, with the same options.
command -v sixgig >/dev/null || {
    echo "sixgig is not on the PATH: activate the environment that it is installed in" >&2
    exit 2
}
exec sixgig run all "$@"
