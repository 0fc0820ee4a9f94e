#!/bin/sh
# Builds Kubernetes' own kube-apiserver, kube-controller-manager and etcd from their Go modules into tests/kube/bin.
# Needs Go and the Go module proxy; about five minutes on two cores the first time, seconds later.
set -eu
cd "$(dirname "$0")"
version=$(sed -n 's|^\tk8s.io/kubernetes \(v[0-9.]*\)$|\1|p' go.mod)
major=$(echo "$version" | sed 's/^v\([0-9]*\)\..*/\1/')
minor=$(echo "$version" | sed 's/^v[0-9]*\.\([0-9]*\)\..*/\1/')
package=k8s.io/component-base/version
flags="-s -w -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
mkdir -p bin
for command in etcd kube-apiserver kube-controller-manager; do
    # Under another name until it is whole: tests use what is there.
    CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "bin/.$command" "./$command"
    mv "bin/.$command" "bin/$command"
done
