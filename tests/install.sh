# Sourced by needs.sh and peers.sh.

# Whether a shell would find it.
is_here() {
    command -v "$1" >/dev/null 2>&1
}

# Installs these packages, as root on Debian; otherwise says how, and ends.
want() {
    [ $# -gt 0 ] || return 0
    echo "missing here: $*"
    if [ "$(id -u)" -ne 0 ] || ! is_here apt-get; then
        echo "install as root: apt-get update && apt-get install -y --no-install-recommends $*"
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y --no-install-recommends "$@"
}
