//! Valid certificates in the wrong hands: a sidecar that asks for another's configuration, a peer that exports in
//! another cluster's name. Both speak gRPC by curl.

use super::super::check::{Teller, says};
use super::super::mesh::{AGENT_DATA, Mesh};
use super::super::wire_bytes::{base64, discovery_request, forged_export};
use crate::topology::Network::{East, West};

/// reviews asks its control plane for ratings' and the VM's secrets and configuration.
pub(super) fn others_configuration(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let reviews = mesh.host("reviews-v3")?;
    for (whose, ip, namespace, account, name, kind) in [
        (
            "ratings' secrets",
            "10.2.0.14",
            "bookinfo",
            "bookinfo-ratings",
            "ratings",
            "envoy.extensions.transport_sockets.tls.v3.Secret",
        ),
        (
            "MySQL's configuration",
            "10.3.0.20",
            "vm",
            "mysqldb",
            "mysqldb-vm-10.3.0.20",
            "envoy.config.listener.v3.Listener",
        ),
    ] {
        let request = discovery_request(ip, namespace, account, name, &format!("type.googleapis.com/{kind}"));
        let command = format!(
            "echo {} | base64 -d | curl -s -m 5 -o /dev/null -D - --http2 --data-binary @- -H 'content-type: application/grpc' \
             -H 'te: trailers' --cacert {AGENT_DATA}/identity/root-cert.pem --cert {AGENT_DATA}/identity/cert-chain.pem \
             --key {AGENT_DATA}/identity/key.pem --resolve istiod.istio-system.svc:15012:{} \
             https://istiod.istio-system.svc:15012/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            base64(&request),
            West.address(10)
        );
        teller.check(
            &format!("reviews' certificate asks for {whose} and is refused"),
            &reviews,
            &command,
            |output| {
                // 7 is PERMISSION_DENIED.
                if output.stdout.contains("grpc-status: 7") {
                    let message = output.stdout.lines().find_map(|line| line.strip_prefix("grpc-message: "));
                    Ok(message.unwrap_or("grpc-status: 7").trim().replace("%20", " "))
                } else {
                    Err("it is not answered with grpc-status 7".into())
                }
            },
        )?;
    }
    Ok(())
}

/// West, with all its credentials, exports a service in the name of a third cluster.
pub(super) fn others_exports(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let west = mesh.control_plane(West)?;
    let secret = west.must(
        "kubectl get secret -n istio-system isthmus-peer-east -o jsonpath='{.data.secret}' | base64 -d",
    )?;
    let prepare = "mkdir -p /tmp/peer && cd /tmp/peer && \
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out leaf.csr -subj / \
          -addext 'subjectAltName=critical,DNS:default.west.federation.isthmus.internal,URI:spiffe://cluster.local/ns/istio-system/sa/istiod' && \
        openssl x509 -req -in leaf.csr -CA /var/lib/isthmus/cacerts/ca-cert.pem -CAkey /var/lib/isthmus/cacerts/ca-key.pem \
          -CAcreateserial -CAserial serial -days 1 -copy_extensions copy -out leaf.pem && cat leaf.pem /var/lib/isthmus/cacerts/cert-chain.pem > chain.pem";
    west.must(prepare)?;
    let name = "default.east.federation.isthmus.internal";
    let host = "stolen.bookinfo.svc.cluster.local";
    let command = format!(
        "echo {} | base64 -d | curl -s -m 4 -o /tmp/peer/answer -D - --http2 --data-binary @- -H 'content-type: application/grpc' \
         -H 'te: trailers' --cacert /var/lib/isthmus/cacerts/root-cert.pem --cert /tmp/peer/chain.pem --key /tmp/peer/key.pem \
         --resolve {name}:15443:{} https://{name}:15443/isthmus.federation.v1.Federation/Link; cat /tmp/peer/answer | tr -c '[:print:]' ' '",
        base64(&forged_export(&secret, "north", host)),
        East.border()
    );
    teller.check("west exports a service as another cluster and is refused", &west, &command, |output| {
        let text = &output.stdout;
        let refused = text.contains("north") || text.contains("grpc-status: 7");
        if refused { Ok(words_about(text, "north")) } else { Err("no refusal is told".into()) }
    })?;
    let page = mesh.host("productpage")?;
    teller.check(
        "and nobody in east finds that service",
        &page,
        &format!("dig +noall +comments {host}"),
        says("NXDOMAIN"),
    )?;
    Ok(())
}

/// The printable words around one.
fn words_about(text: &str, word: &str) -> String {
    let Some(at) = text.find(word) else { return String::new() };
    let from = text[..at].rfind("  ").map_or(0, |start| start + 2);
    let to = text[at..].find("  ").map_or(text.len(), |end| at + end);
    text[from..to].split_whitespace().collect::<Vec<_>>().join(" ")
}
