//! The real kubectl against the served API.

#[path = "support/served.rs"]
mod support;

use support::Served;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {tier: front}}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_reads_changes_and_deletes() {
    let served = Served::start().await;
    let Some(kubectl) = served.kubectl() else { return };
    let namespace = "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"shop\"}}";
    assert_eq!(kubectl.ok(&["create", "-f", "-"], namespace).await, "namespace/shop created");
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], SERVICE).await, "service/web created");
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], SERVICE).await, "service/web unchanged");
    let changed = SERVICE.replace("8080", "9090");
    let diff = kubectl.run(&["diff", "-f", "-"], &changed).await;
    assert!(
        diff.out.contains("-    targetPort: 8080") && diff.out.contains("+    targetPort: 9090"),
        "{}",
        diff.out
    );
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], &changed).await, "service/web configured");
    let port = ["get", "service", "web", "-n", "shop", "-o", "jsonpath={.spec.ports[0].targetPort}"];
    assert_eq!(kubectl.ok(&port, "").await, "9090");
    kubectl.ok(&["label", "service", "web", "-n", "shop", "tier=back", "--overwrite"], "").await;
    let table = kubectl.ok(&["get", "services", "-A", "-l", "tier=back"], "").await;
    assert!(table.contains("NAMESPACE") && table.contains("80/TCP"), "{table}");
    kubectl
        .ok(
            &[
                "patch",
                "service",
                "web",
                "-n",
                "shop",
                "-p",
                "{\"spec\":{\"ports\":[{\"port\":80,\"name\":\"h\"}]}}",
            ],
            "",
        )
        .await;
    let described = kubectl.ok(&["describe", "service", "web", "-n", "shop"], "").await;
    assert!(described.contains("9090/TCP"), "{described}");
    let unknown = SERVICE.replace("selector:", "selektor:");
    let refused = kubectl.run(&["apply", "-f", "-"], &unknown).await;
    assert!(!refused.good && refused.err.contains("unknown field \"spec.selektor\""), "{}", refused.err);
    let explained = kubectl.ok(&["explain", "service.spec.ports.targetPort"], "").await;
    assert!(explained.contains("FIELD: targetPort"), "{explained}");
    assert_eq!(kubectl.ok(&["delete", "namespace", "shop"], "").await, "namespace \"shop\" deleted");
    let gone = kubectl.run(&["get", "service", "web", "-n", "shop"], "").await;
    assert!(gone.err.contains("NotFound"), "{}", gone.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_creates_by_its_generators() {
    let served = Served::start().await;
    let Some(kubectl) = served.kubectl() else { return };
    kubectl.ok(&["create", "namespace", "shop"], "").await;
    kubectl.ok(&["create", "serviceaccount", "web", "-n", "shop"], "").await;
    kubectl
        .ok(&["create", "configmap", "c", "-n", "shop", "--from-literal=a=b", "--from-literal=c=d"], "")
        .await;
    assert_eq!(
        kubectl.ok(&["get", "configmap", "c", "-n", "shop", "-o", "jsonpath={.data}"], "").await,
        "{\"a\":\"b\",\"c\":\"d\"}"
    );
    kubectl.ok(&["create", "secret", "generic", "s", "-n", "shop", "--from-literal=a=b"], "").await;
    assert_eq!(
        kubectl.ok(&["get", "secret", "s", "-n", "shop", "-o", "jsonpath={.data.a}{.type}"], "").await,
        "Yg==Opaque"
    );
    kubectl.ok(&["create", "service", "clusterip", "svc", "-n", "shop", "--tcp=80:8080"], "").await;
    let service = ["get", "service", "svc", "-n", "shop", "-o", "jsonpath={.spec.ports[0]}"];
    let port = kubectl.ok(&service, "").await;
    assert!(port.contains("\"targetPort\":8080") && port.contains("\"name\":\"80-8080\""), "{port}");
    let token =
        kubectl.ok(&["create", "token", "web", "-n", "shop", "--duration=1h", "--audience=x"], "").await;
    assert_eq!(token.split('.').count(), 3, "{token}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches_and_waits() {
    use tokio::io::AsyncBufReadExt;
    let served = Served::start().await;
    let Some(kubectl) = served.kubectl() else { return };
    let pod = "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}, \"spec\": {\"containers\": \
               [{\"name\": \"c\", \"image\": \"i\"}]}}";
    kubectl.ok(&["create", "-f", "-"], pod).await;
    let mut watch = kubectl.command(&["get", "pods", "-w", "--no-headers", "-o", "wide"]);
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().expect("kubectl starts");
    let mut lines = tokio::io::BufReader::new(watch.stdout.take().expect("its output")).lines();
    let first = lines.next_line().await.expect("a line").expect("a line");
    assert!(first.starts_with("p ") && first.contains("Pending"), "{first}");
    let wait = ["wait", "--for=condition=Ready", "pod/p", "--timeout=30s"];
    let wait = kubectl.ok(&wait, "");
    let ready = "{\"status\": {\"phase\": \"Running\", \"podIP\": \"10.1.0.5\", \"conditions\": [{\"type\": \"Ready\", \
                 \"status\": \"True\"}]}}";
    let patch = ["patch", "pod", "p", "--subresource=status", "--type=merge", "-p", ready];
    let change = kubectl.ok(&patch, "");
    let (waited, _) = tokio::join!(wait, change);
    assert_eq!(waited, "pod/p condition met");
    let second = lines.next_line().await.expect("a line").expect("a line");
    assert!(second.contains("Running") && second.contains("10.1.0.5"), "{second}");
    let delete = kubectl.ok(&["delete", "pod", "p"], "").await;
    assert!(delete.starts_with("pod \"p\" deleted"), "{delete}");
}

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ships.sea.io}
spec:
  group: sea.io
  scope: Namespaced
  names: {kind: Ship, plural: ships, shortNames: [sh]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Crew, type: integer, jsonPath: .spec.crew}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What a ship is
            properties:
              crew: {type: integer, minimum: 1, description: How many sail her}
              not: {type: string}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_defines_a_kind_and_uses_it() {
    let served = Served::start().await;
    let Some(kubectl) = served.kubectl() else { return };
    kubectl.ok(&["apply", "-f", "-"], DEFINITION).await;
    kubectl.ok(&["wait", "--for=condition=Established", "crd/ships.sea.io", "--timeout=30s"], "").await;
    let ship = "apiVersion: sea.io/v1\nkind: Ship\nmetadata: {name: argo}\nspec: {crew: 50}";
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], ship).await, "ship.sea.io/argo created");
    let fewer = ship.replace("50", "49");
    assert_eq!(kubectl.ok(&["apply", "-f", "-"], &fewer).await, "ship.sea.io/argo configured");
    let server_side = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    assert_eq!(kubectl.ok(&server_side, ship).await, "ship.sea.io/argo serverside-applied");
    let table = kubectl.ok(&["get", "sh"], "").await;
    assert!(table.contains("CREW") && table.contains("50"), "{table}");
    let explained = kubectl.ok(&["explain", "ship.spec.crew"], "").await;
    assert!(explained.contains("How many sail her"), "{explained}");
    let refused = kubectl.run(&["apply", "-f", "-"], &ship.replace("50", "0")).await;
    assert!(refused.err.contains("should be greater than or equal to 1"), "{}", refused.err);
    let unknown = kubectl.run(&["apply", "-f", "-"], &ship.replace("crew", "kru")).await;
    assert!(unknown.err.contains("unknown field \"spec.kru\""), "{}", unknown.err);
    kubectl.ok(&["delete", "crd", "ships.sea.io"], "").await;
    // kubectl remembers the kinds that it has discovered.
    let gone = kubectl.run(&["get", "ships"], "").await;
    assert!(!gone.good && gone.err.contains("could not find the requested resource"), "{}", gone.err);
}
