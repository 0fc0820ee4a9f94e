#!/bin/sh
# Other people's programs that `make test` runs ours against, beside those of needs.sh: gRPC libraries that speak xDS, for Python
# and Node. The argument is the folder of builds; they go to `peers` in it, once.
set -eu
peers=$1/peers
. "$(dirname "$0")/install.sh"

missing=
is_here node || missing="$missing nodejs"
is_here npm || missing="$missing npm"
python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
want $missing

# A folder appears when it is complete.
if [ ! -d "$peers/python" ]; then
    echo "missing here: grpcio for Python; installing it into $peers"
    rm -rf "$peers/python.new"
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target "$peers/python.new" 'grpcio==1.85.1'
    mv "$peers/python.new" "$peers/python"
fi
if [ ! -d "$peers/node_modules" ]; then
    echo "missing here: @grpc/grpc-js-xds for Node; installing it into $peers"
    rm -rf "$peers/npm.new"
    mkdir -p "$peers/npm.new"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$peers/npm.new" \
        '@grpc/grpc-js@1.14.7' '@grpc/grpc-js-xds@1.14.1'
    mv "$peers/npm.new/node_modules" "$peers/node_modules"
    rm -rf "$peers/npm.new"
fi
