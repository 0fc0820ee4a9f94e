//! The built command against the API servers of two clusters.

use std::path::Path;
use std::process::{Command, Output};

use isthmus_ca::{Intermediate, Root};
use isthmus_kube::mesh::{Granted, MeshInfo};
use isthmus_lifecycle::{Clock, SystemClock};
use isthmus_model::token::{Grant, JoinToken, LinkToken};
use isthmus_resources::Kind;
use serde_json::{Value, json};

use api::{Api, kubeconfig};

mod api;

const SYSTEM: Option<&str> = Some("istio-system");

/// Clusters `east` and `west` of one mesh, each with its description and its gateway.
struct Pair {
    place: tempfile::TempDir,
    east: Api,
    west: Api,
    roots: String,
}

impl Pair {
    fn new() -> Self {
        let roots = roots();
        let pair = Self {
            place: tempfile::tempdir().expect("a test has a temporary directory"),
            east: cluster("east", "192.0.2.1", &roots),
            west: cluster("west", "198.51.100.1", &roots),
            roots,
        };
        kubeconfig(&pair.place.path().join("config"), &[("east", &pair.east), ("west", &pair.west)]);
        pair
    }

    fn run(&self, arguments: &[&str]) -> Output {
        isthmus(self.place.path(), arguments)
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", err(&output));
        out(&output)
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", out(&output));
        err(&output)
    }
}

fn isthmus(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isthmus"))
        .args(["--kubeconfig", "config"])
        .args(arguments)
        .current_dir(directory)
        .output()
        .expect("the built command starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it writes UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it writes UTF-8")
}

fn roots() -> String {
    let day = std::time::Duration::from_secs(86_400);
    let (root, _) =
        Root::create(&"cluster.local".parse().expect("a domain"), day, SystemClock.now()).expect("a root");
    root.intermediate(&Intermediate::new("east".parse().expect("a name")), SystemClock.now())
        .expect("a signer")
        .roots
}

fn description(name: &str, roots: &str) -> MeshInfo {
    MeshInfo {
        mesh_id: "mesh1".into(),
        cluster: name.into(),
        network: name.into(),
        revision: "default".into(),
        trust_domain: "cluster.local".into(),
        server_name: format!("default.{name}.federation.isthmus.internal"),
        addresses: vec!["10.0.0.1:15012".into()],
        roots: roots.into(),
    }
}

fn cluster(name: &str, gateway: &str, roots: &str) -> Api {
    let api = Api::start();
    api.describe(&description(name, roots));
    api.put(
        Kind::Namespace,
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
    );
    api.put(
        Kind::Service,
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "istio-eastwestgateway", "namespace": "istio-system",
                "labels": { "topology.istio.io/network": name },
            },
            "spec": {
                "externalIPs": [gateway], "selector": { "istio": "eastwestgateway" },
                "ports": [{ "name": "tls", "port": 15443 }, { "name": "tls-istiod", "port": 15012 }],
            },
        }),
    );
    api
}

fn account(api: &Api, name: &str) {
    api.put(
        Kind::ServiceAccount,
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": "shop" },
        }),
    );
}

fn decoded(object: &Value, key: &str) -> String {
    use base64::Engine as _;
    let text = object["data"][key].as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("a Secret's data is base64");
    String::from_utf8(bytes).expect("it is text")
}

#[test]
fn a_link_token_carries_consent_from_one_side_to_the_other() {
    let pair = Pair::new();
    let text = pair.says(&["--context", "east", "link", "create", "--to", "west"]);
    let token: LinkToken = text.trim().parse().unwrap();
    assert_eq!((token.cluster.as_str(), token.to.as_str()), ("east", "west"));
    assert_eq!(token.gateways, ["192.0.2.1:15012".into()]);
    let waiting = pair.east.get(Kind::Peer, None, "west").unwrap();
    assert!(waiting["spec"]["gateways"].is_null(), "{waiting}");

    pair.says(&["--context", "west", "link", "accept", text.trim()]);
    let calling = pair.west.get(Kind::Peer, None, "east").unwrap();
    assert_eq!(calling["spec"]["gateways"], json!(["192.0.2.1:15012"]));
    assert_eq!(calling["spec"]["rootSha256"], waiting["spec"]["rootSha256"]);
    let secret = decoded(&pair.west.get(Kind::Secret, SYSTEM, "isthmus-peer-east").unwrap(), "secret");
    assert_eq!(secret, *token.secret);
    assert_eq!(waiting["spec"]["secretSha256"], sha256(&secret));

    let again = pair.fails(&["--context", "east", "link", "create", "--to", "west"]);
    assert!(again.contains("Peer west exists already") && again.contains("--force"), "{again}");
    pair.says(&["--context", "east", "link", "create", "--to", "west", "--force"]);
    let list = pair.says(&["--all-contexts", "link", "list", "-o", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");

    pair.says(&["--context", "west", "link", "remove", "east"]);
    assert!(pair.west.list(Kind::Peer, None).is_empty());
    assert!(pair.west.get(Kind::Secret, SYSTEM, "isthmus-peer-east").is_none());
    let gone = pair.fails(&["--context", "west", "link", "remove", "east"]);
    assert!(gone.contains("no link to east"), "{gone}");
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_link_is_refused_where_clusters_meshes_or_roots_differ() {
    let pair = Pair::new();
    let text = pair.says(&["--context", "east", "link", "create", "--to", "west"]);
    let wrong = pair.fails(&["--context", "east", "link", "accept", text.trim()]);
    assert!(wrong.contains("the token is for cluster west"), "{wrong}");
    pair.west.describe(&description("west", &roots()));
    let wrong = pair.fails(&["--context", "west", "link", "accept", text.trim()]);
    assert!(wrong.contains("east has another root certificate"), "{wrong}");
    pair.west.describe(&MeshInfo { mesh_id: "mesh2".into(), ..description("west", &pair.roots) });
    let wrong = pair.fails(&["--context", "west", "link", "accept", text.trim()]);
    assert!(wrong.contains(r#"east is of mesh "mesh1", west of mesh "mesh2""#), "{wrong}");
    assert!(pair.west.list(Kind::Peer, None).is_empty());
    assert!(pair.west.list(Kind::Secret, SYSTEM).is_empty());
}

#[test]
fn a_vm_token_admits_one_machine_to_the_group_that_it_names() {
    let pair = Pair::new();
    let missing = pair.fails(&["--context", "west", "vm", "token", "--group", "shop/db"]);
    assert!(missing.contains("kubectl apply -f -") && missing.contains("kind: WorkloadGroup"), "{missing}");
    pair.west.put(Kind::WorkloadGroup, json!({
        "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup", "metadata": { "name": "db", "namespace": "shop" },
        "spec": { "template": { "serviceAccount": "dba", "network": "site" } },
    }));
    let missing = pair.fails(&["--context", "west", "vm", "token", "--group", "shop/db"]);
    assert!(missing.contains("kubectl -n shop create serviceaccount dba"), "{missing}");
    account(&pair.west, "dba");

    let text = pair.says(&["--context", "west", "vm", "token", "--group", "shop/db"]);
    let token: JoinToken = text.trim().parse().unwrap();
    assert_eq!(token.grant, Grant::Vm("shop/db".parse().unwrap()));
    assert_eq!(token.network.as_str(), "site");
    // The machine is in another network: it comes through the gateway of the control plane's.
    assert_eq!(token.addresses, ["198.51.100.1:15012".into()]);
    assert_eq!(&*token.server_name, "default.west.federation.isthmus.internal");
    // As the control plane reads it.
    let granted = pair.west.ask(async |cluster| cluster.verify_token(&token.bearer).await).unwrap();
    let Granted::Vm { group, service_account, secret, .. } = &granted else { panic!("{granted:?}") };
    assert_eq!((group.to_string(), service_account.to_string()), ("shop/db".into(), "shop/dba".into()));
    assert!(secret.name.starts_with("isthmus-join-"), "{secret}");
    pair.west.ask(async |cluster| cluster.consume_token(&granted).await).unwrap();
    pair.west.ask(async |cluster| cluster.verify_token(&token.bearer).await).unwrap_err();

    let near = ["--context", "west", "vm", "token", "--group", "shop/db", "--network", "west", "-o", "json"];
    let near: Value = serde_json::from_str(&pair.says(&near)).unwrap();
    assert_eq!(near["addresses"], json!(["10.0.0.1:15012"]));
}

#[test]
fn a_host_token_is_reusable_and_written_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let pair = Pair::new();
    let arguments = ["host", "token", "--service-account", "shop/cart,shop/checkout", "--out", "host.token"];
    let missing = pair.fails(&arguments);
    assert!(missing.contains("kubectl -n shop create serviceaccount cart"), "{missing}");
    account(&pair.east, "cart");
    account(&pair.east, "checkout");
    let output = pair.run(&arguments);
    assert!(output.status.success(), "{}", err(&output));
    assert!(err(&output).contains("kubectl -n istio-system delete secret isthmus-host-"), "{}", err(&output));
    let file = pair.place.path().join("host.token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token: JoinToken = std::fs::read_to_string(file).unwrap().parse().unwrap();
    assert_eq!(
        token.grant,
        Grant::Host(vec!["shop/cart".parse().unwrap(), "shop/checkout".parse().unwrap()])
    );
    for _ in 0..2 {
        let granted = pair.east.ask(async |cluster| cluster.verify_token(&token.bearer).await).unwrap();
        let Granted::Host { service_accounts, .. } = &granted else { panic!("{granted:?}") };
        assert_eq!(
            service_accounts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["shop/cart", "shop/checkout"]
        );
        pair.east.ask(async |cluster| cluster.consume_token(&granted).await).unwrap();
    }
}

#[test]
fn status_shows_every_context_though_one_is_silent() {
    let pair = Pair::new();
    let report = json!({ "meshId": "mesh1", "cluster": "east", "network": "east", "snapshot": 7 });
    pair.east.page("/debug/isthmus/status", report);
    let one: Value =
        serde_json::from_str(&pair.says(&["--context", "east", "status", "-o", "json"])).unwrap();
    assert_eq!(one["snapshot"], 7);
    let output = pair.run(&["--all-contexts", "status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        out(&output).contains("cluster east") && out(&output).contains("context west"),
        "{}",
        out(&output)
    );
    assert!(err(&output).contains("1 control planes did not answer"), "{}", err(&output));
}

#[test]
fn beside_kubernetes_status_is_the_control_planes_own_page() {
    let pair = Pair::new();
    // An API server that has no such page, as Kubernetes' has none.
    let hint = pair.fails(&["--context", "west", "status"]);
    assert!(hint.contains("port-forward") && hint.contains("--control-plane"), "{hint}");
    let pages = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", pages.local_addr().unwrap());
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = pages.accept().unwrap();
        let mut asked = [0; 4096];
        let read = std::io::Read::read(&mut stream, &mut asked).unwrap();
        let body = json!({ "meshId": "mesh1", "cluster": "north", "network": "", "snapshot": 9 }).to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
        let text = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
        String::from_utf8_lossy(&asked[..read]).into_owned()
    });
    let text = pair.says(&["status", "--control-plane", &url]);
    assert!(text.starts_with("cluster north"), "{text}");
    assert!(answer.join().unwrap().starts_with("GET /debug/isthmus/status "));
    let both = pair.fails(&["--all-contexts", "status", "--control-plane", &url]);
    assert!(both.contains("--all-contexts"), "{both}");
}

#[test]
fn proxy_config_shows_what_a_proxy_has() {
    let pair = Pair::new();
    let path = "/debug/isthmus/proxy/shop/cart-v1";
    pair.east
        .page(path, json!([{ "host": "db.shop", "addresses": ["240.240.0.1"], "registry": "External" }]));
    let text = pair.says(&["proxy-config", "names", "cart-v1.shop"]);
    assert_eq!(text, "HOST     ADDRESSES    REGISTRY\ndb.shop  240.240.0.1  External\n");
    let unknown = pair.fails(&["proxy-config", "names", "nobody.shop"]);
    assert!(unknown.contains("`isthmus status` lists the proxies"), "{unknown}");
}

#[test]
fn a_server_that_does_not_answer_is_named() {
    let place = tempfile::tempdir().unwrap();
    let config = |address: &str| {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "east",
            "clusters": [{ "name": "east", "cluster": { "server": format!("https://{address}") } }],
            "contexts": [{ "name": "east", "context": { "cluster": "east", "user": "admin" } }],
            "users": [{ "name": "admin", "user": {} }],
        });
        std::fs::write(place.path().join("config"), config.to_string()).unwrap();
    };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    config(&closed);
    let output = isthmus(place.path(), &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains(&closed) && err(&output).contains("does not answer"), "{}", err(&output));
    // Accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config(&silent.local_addr().unwrap().to_string());
    let output = isthmus(place.path(), &["--timeout", "1s", "link", "list"]);
    assert!(err(&output).contains("did not answer within 1 s"), "{}", err(&output));
}
