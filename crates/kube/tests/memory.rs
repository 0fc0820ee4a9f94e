//! What a pod costs: bytes that the watches' last good state, the registry and its snapshot hold for each, counted by the allocator.

#![expect(clippy::unwrap_used, reason = "a test's helpers")]
#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame};
use isthmus_kube::Cluster;
use isthmus_kube::watch::{MESH_KINDS, Watch, watch};
use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_registry::{Registry, Settings};
use isthmus_resources::Change;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Bytes that one pod may take, its share of a Service and an EndpointSlice of ten and of what the watches themselves need included.
const A_POD: usize = 1300;
const SERVICES: usize = 200;
const PODS_OF_EACH: usize = 10;
const NODES: usize = 40;
/// Most objects of one page: what clients ask for.
const PAGE: usize = 500;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// What the system's allocator takes for so many bytes: a header, and a multiple of 16.
fn taken(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call goes on to the system's allocator as it came; beside it a number is counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(taken(size), Ordering::Relaxed);
        LIVE.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn namespace(service: usize) -> String {
    format!("team-{}", service % 10)
}

fn metadata(name: &str, namespace: &str, labels: Value) -> Value {
    json!({
        "name": name, "namespace": namespace, "uid": uuid_of(name), "resourceVersion": "123456",
        "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels,
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:metadata": {}}}],
    })
}

fn uuid_of(name: &str) -> String {
    let digits: String = name.bytes().rev().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("0fbb21f4-6bd5-4a0e-8c9d-{digits:0>12}")
}

fn service(number: usize) -> Value {
    let name = format!("shop-{number}");
    json!({
        "metadata": metadata(&name, &namespace(number), json!({"app": name, "team": "shop"})),
        "spec": {
            "type": "ClusterIP", "clusterIP": format!("10.96.{}.{}", number / 250, number % 250 + 1),
            "clusterIPs": [format!("10.96.{}.{}", number / 250, number % 250 + 1)],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
            "selector": {"app": name},
        },
    })
}

/// Name, address and node of a pod.
fn place(service: usize, pod: usize) -> (String, String, String) {
    let all = service * PODS_OF_EACH + pod;
    let name = format!("shop-{service}-6b5f7c9d8-{:05}", all * 7 % 99_991);
    (
        name,
        format!("10.{}.{}.{}", 1 + all / 62_500, all / 250 % 250, all % 250),
        format!("node-{}", all % NODES),
    )
}

fn pod(service: usize, pod: usize) -> Value {
    let (name, address, node) = place(service, pod);
    let app = format!("shop-{service}");
    let labels = json!({
        "app": app, "version": "v1", "pod-template-hash": "6b5f7c9d8", "security.istio.io/tlsMode": "istio",
        "service.istio.io/canonical-name": app,
    });
    json!({
        "metadata": metadata(&name, &namespace(service), labels),
        "spec": {
            "serviceAccountName": app, "nodeName": node, "volumes": [{"name": "token"}],
            "containers": [{"name": "app", "image": "shop:1", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
        },
    })
}

fn slice(service: usize) -> Value {
    let name = format!("shop-{service}");
    let endpoints = (0..PODS_OF_EACH).map(|number| {
        let (pod, address, node) = place(service, number);
        json!({
            "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node, "zone": "r-a",
            "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace(service), "uid": uuid_of(&pod)},
        })
    });
    json!({
        "metadata": metadata(&format!("{name}-x7k2p"), &namespace(service), json!({"kubernetes.io/service-name": name})),
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn node(number: usize) -> Value {
    let labels = json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": format!("r-{}", number % 3)});
    json!({"metadata": {"name": format!("node-{number}"), "labels": labels}, "status": {"addresses": []}})
}

/// How many objects of a kind there are, and each of them.
fn objects(plural: &str) -> (usize, fn(usize) -> Value) {
    match plural {
        "services" => (SERVICES, service),
        "pods" => (SERVICES * PODS_OF_EACH, |number| pod(number / PODS_OF_EACH, number % PODS_OF_EACH)),
        "endpointslices" => (SERVICES, slice),
        "nodes" => (NODES, node),
        "namespaces" => (10, |number| json!({"metadata": {"name": format!("team-{number}")}})),
        _ => (0, |_| Value::Null),
    }
}

/// A page, or the silence of a watch of which nothing changes.
enum Answer {
    Page(Option<Bytes>),
    Silence,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Page(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Silence => Poll::Pending,
        }
    }
}

fn page(value: &Value) -> Answer {
    Answer::Page(Some(value.to_string().into()))
}

/// An API server that lists in pages.
fn answer(uri: &Uri) -> Answer {
    let query = uri.query().unwrap_or_default();
    if uri.path() == "/apis" {
        return page(&json!({"groups": []}));
    }
    if query.contains("watch=true") {
        return Answer::Silence;
    }
    let from = query.split('&').find_map(|pair| pair.strip_prefix("continue=")).unwrap_or("0");
    let from: usize = from.parse().unwrap();
    let (count, object) = objects(uri.path().rsplit('/').next().unwrap());
    let to = (from + PAGE).min(count);
    let items: Vec<Value> = (from..to).map(object).collect();
    let next = if to < count { to.to_string() } else { String::new() };
    page(&json!({"metadata": {"resourceVersion": "1", "continue": next}, "items": items}))
}

#[tokio::test]
async fn a_pod_costs_little_more_than_a_kilobyte() {
    let cluster = Cluster::in_process(tower::service_fn(|request: Request<_>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(answer(request.uri()))))
    }));
    let id: isthmus_model::ClusterId = "east".parse().unwrap();
    let mut registry = Registry::new(Settings {
        cluster: id.clone(),
        network: "net".parse().unwrap(),
        trust_domain: "cluster.local".parse().unwrap(),
        system_namespace: "istio-system".parse().unwrap(),
        domain: "cluster.local".into(),
    });
    let tasks = TaskGroup::new("memory", Drain::new());
    let (events, mut receive) = mpsc::channel(64);
    let before = LIVE.load(Ordering::Relaxed);
    let sources = Watch { id, kinds: MESH_KINDS.to_vec(), events, findings: None, ready: None };
    let _status = watch(&cluster, sources, &tasks);
    for _ in MESH_KINDS {
        let event = receive.recv().await.unwrap();
        assert!(matches!(event.change, Change::Listed(..)));
        registry.apply(event);
    }
    let (snapshot, changes) = registry.publish().unwrap();
    drop(changes);
    assert_eq!(snapshot.workloads.len(), SERVICES * PODS_OF_EACH);
    assert_eq!(
        snapshot.endpoints.values().map(|endpoints| endpoints.len()).sum::<usize>(),
        SERVICES * PODS_OF_EACH
    );
    let each = (LIVE.load(Ordering::Relaxed) - before) / (SERVICES * PODS_OF_EACH);
    assert!(each <= A_POD, "{each} bytes for each pod");
}
