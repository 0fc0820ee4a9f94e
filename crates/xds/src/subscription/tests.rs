use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use isthmus_proto::resource::{Resource, ResourceSet, View};
use isthmus_proto::type_url::{CLUSTER, ENDPOINTS, LISTENER, NAME_TABLE, ROUTE, SECRET};
use prost::Message;

use super::*;
use crate::payload::version_text;

/// A stream and a control plane without anything between them.
struct Bench {
    subscriptions: Subscriptions,
    cache: Arc<Cache>,
    view: Arc<View>,
}

/// What a client reads: type, nonce, names with bodies, removed names.
#[derive(Debug, PartialEq)]
struct Read {
    url: String,
    nonce: String,
    resources: Vec<(String, String)>,
    removed: Vec<String>,
}

fn view(version: u64, sets: &[(&'static str, &[(&str, &str)])]) -> Arc<View> {
    let resource =
        |(name, body): &(&str, &str)| Resource::new(*name, Bytes::copy_from_slice(body.as_bytes()));
    let set = |list: &[(&str, &str)]| Arc::new(ResourceSet::new(list.iter().map(resource).collect()));
    Arc::new(View { version, sets: sets.iter().map(|(url, list)| (*url, set(list))).collect() })
}

impl Bench {
    fn new(flavour: Flavour, sets: &[(&'static str, &[(&str, &str)])]) -> Self {
        Self { subscriptions: Subscriptions::new(flavour), cache: Cache::new(), view: view(1, sets) }
    }

    /// Publishes another view in which sets that are not named stay the same.
    fn publish(&mut self, sets: &[(&'static str, &[(&str, &str)])]) {
        let news = view(self.view.version + 1, sets);
        let mut all = self.view.sets.clone();
        all.retain(|(url, _)| news.set(url).is_none());
        all.extend(news.sets.iter().cloned());
        self.view = Arc::new(View { version: news.version, sets: all });
    }

    fn heard(&mut self, request: Request) -> Heard {
        self.subscriptions.heard(request, &self.view, &self.cache).unwrap()
    }

    fn world(&mut self, url: &str, nonce: &str, names: &[&str]) -> Heard {
        let names =
            Wanted::Exactly(names.iter().map(|name| Bytes::copy_from_slice(name.as_bytes())).collect());
        self.heard(Request { type_url: url.into(), nonce: nonce.into(), error: None, names })
    }

    fn delta(&mut self, url: &str, nonce: &str, subscribe: &[&str], unsubscribe: &[&str]) -> Heard {
        self.delta_with(url, nonce, subscribe, unsubscribe, &[])
    }

    fn delta_with(
        &mut self,
        url: &str,
        nonce: &str,
        subscribe: &[&str],
        unsubscribe: &[&str],
        initial: &[(&str, String)],
    ) -> Heard {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let initial: HashMap<String, String> =
            initial.iter().map(|(name, version)| (name.to_string(), version.clone())).collect();
        let names = Wanted::Change { subscribe: list(subscribe), unsubscribe: list(unsubscribe), initial };
        self.heard(Request { type_url: url.into(), nonce: nonce.into(), error: None, names })
    }

    fn nack(&mut self, url: &str, nonce: &str) -> Heard {
        let names = match self.subscriptions.flavour {
            Flavour::World => Wanted::Exactly(Vec::new()),
            Flavour::Delta => {
                Wanted::Change { subscribe: vec![], unsubscribe: vec![], initial: HashMap::new() }
            }
        };
        self.heard(Request { type_url: url.into(), nonce: nonce.into(), error: Some("no".into()), names })
    }

    fn next(&mut self) -> Option<Read> {
        let response = self.subscriptions.next(&self.view, &self.cache)?;
        let part = &response.payload.parts[response.part];
        let mut bytes =
            crate::payload::head(&response.type_url, response.version, &response.nonce, part).to_vec();
        part.segments.iter().for_each(|segment| bytes.extend_from_slice(segment));
        let text = |value: &[u8]| String::from_utf8_lossy(value).to_string();
        Some(match self.subscriptions.flavour {
            Flavour::World => {
                let read = DiscoveryResponse::decode(&bytes[5..]).unwrap();
                let bodies = read.resources.iter().map(|any| (String::new(), text(&any.value)));
                Read { url: read.type_url, nonce: read.nonce, resources: bodies.collect(), removed: vec![] }
            }
            Flavour::Delta => {
                let read = DeltaDiscoveryResponse::decode(&bytes[5..]).unwrap();
                let body =
                    |any: &Option<envoy_types::pb::google::protobuf::Any>| text(&any.as_ref().unwrap().value);
                let resources = read.resources.iter().map(|r| (r.name.clone(), body(&r.resource))).collect();
                Read { url: read.type_url, nonce: read.nonce, resources, removed: read.removed_resources }
            }
        })
    }

    /// Reads everything and acknowledges it; for each message its short type, names (delta) or bodies, and `-` removed names.
    fn settle(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(read) = self.next() {
            let shown = read.resources.iter().map(|(name, body)| if name.is_empty() { body } else { name });
            let mut words: Vec<String> = shown.cloned().collect();
            words.extend(read.removed.iter().map(|name| format!("-{name}")));
            said.push(
                format!("{} {}", crate::flavour::short_name(&read.url), words.join(",")).trim().to_string(),
            );
            match self.subscriptions.flavour {
                Flavour::World => {
                    let watch = self.subscriptions.watches.iter().find(|w| *w.type_url == *read.url).unwrap();
                    let names: Vec<String> = watch.names.iter().map(ToString::to_string).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    self.world(&read.url.clone(), &read.nonce.clone(), &names);
                }
                Flavour::Delta => {
                    self.delta(&read.url.clone(), &read.nonce.clone(), &[], &[]);
                }
            }
        }
        said
    }

    fn report(&self, url: &str) -> TypeReport {
        self.subscriptions.report().into_iter().find(|report| *report.type_url == *url).unwrap()
    }
}

fn version(body: &str) -> String {
    version_text(isthmus_proto::resource::fnv1a(body.as_bytes()))
}

const BOTH: [Flavour; 2] = [Flavour::World, Flavour::Delta];

impl Bench {
    /// Asks for a type in this bench's flavour.
    fn ask(&mut self, url: &str, names: &[&str]) -> Heard {
        match self.subscriptions.flavour {
            Flavour::World => self.world(url, "", names),
            Flavour::Delta => self.delta(url, "", names, &[]),
        }
    }
}

#[test]
fn types_come_in_push_order_whatever_order_they_were_asked_in() {
    for flavour in BOTH {
        let all: Vec<(&'static str, &[(&str, &str)])> =
            [NAME_TABLE, SECRET, ROUTE, LISTENER, ENDPOINTS, CLUSTER]
                .map(|url| (url, &[("a", "a")][..]))
                .into();
        let mut bench = Bench::new(flavour, &all);
        for (url, _) in &all {
            bench.ask(url, if matches!(*url, SECRET | ROUTE | ENDPOINTS) { &["a"] } else { &[] });
        }
        assert_eq!(bench.settle(), ["CDS a", "EDS a", "LDS a", "RDS a", "SDS a", "NDS a"], "{flavour:?}");
        let changed: Vec<(&'static str, &[(&str, &str)])> =
            all.iter().map(|(url, _)| (*url, &[("a", "a2")][..])).collect();
        bench.publish(&changed);
        let types: Vec<String> = bench.settle().iter().map(|line| line[..3].to_string()).collect();
        assert_eq!(types, ["CDS", "EDS", "LDS", "RDS", "SDS", "NDS"], "{flavour:?}");
    }
}

#[test]
fn a_push_in_progress_is_not_interrupted() {
    for flavour in BOTH {
        let mut bench = Bench::new(flavour, &[(CLUSTER, &[("a", "1")]), (LISTENER, &[("l", "1")])]);
        bench.ask(CLUSTER, &[]);
        bench.ask(LISTENER, &[]);
        assert_eq!(bench.next().unwrap().url, CLUSTER);
        bench.publish(&[(CLUSTER, &[("a", "2")]), (LISTENER, &[("l", "2")])]);
        let listener = bench.next().unwrap();
        assert_eq!((listener.url.as_str(), listener.resources[0].1.as_str()), (LISTENER, "1"), "{flavour:?}");
        assert_eq!(bench.next().unwrap().resources[0].1, "2");
        assert_eq!(bench.next().unwrap().resources[0].1, "2");
        assert_eq!(bench.next(), None);
    }
}

#[test]
fn views_in_between_are_skipped() {
    for flavour in BOTH {
        let mut bench = Bench::new(flavour, &[(CLUSTER, &[("a", "1")])]);
        bench.ask(CLUSTER, &[]);
        bench.settle();
        for body in ["2", "3", "4"] {
            bench.publish(&[(CLUSTER, &[("a", body)])]);
        }
        assert_eq!(bench.next().unwrap().resources[0].1, "4");
        assert_eq!(bench.next(), None, "{flavour:?}");
    }
}

#[test]
fn an_equal_set_is_not_sent_again() {
    for flavour in BOTH {
        let mut bench = Bench::new(flavour, &[(CLUSTER, &[("a", "1")])]);
        bench.ask(CLUSTER, &[]);
        bench.settle();
        bench.publish(&[(CLUSTER, &[("a", "1")])]);
        assert_eq!(bench.next(), None, "{flavour:?}");
    }
}

#[test]
fn a_type_that_the_view_does_not_serve_is_unknown_and_an_empty_one_is_told() {
    for flavour in BOTH {
        let mut bench = Bench::new(flavour, &[]);
        bench.ask(LISTENER, &[]);
        bench.ask(ENDPOINTS, &["a"]);
        assert_eq!(bench.next(), None, "{flavour:?}");
        bench.publish(&[(LISTENER, &[])]);
        assert_eq!(bench.settle(), ["LDS"], "{flavour:?}");
        bench.publish(&[(ENDPOINTS, &[("a", "a")])]);
        assert_eq!(bench.settle(), ["EDS a"], "{flavour:?}");
    }
}

#[test]
fn a_refused_response_is_not_sent_again_until_its_type_changes() {
    for flavour in BOTH {
        let mut bench = Bench::new(flavour, &[(CLUSTER, &[("a", "1")])]);
        bench.ask(CLUSTER, &[]);
        assert_eq!(bench.report(CLUSTER).standing, Standing::NotSent);
        let sent = bench.next().unwrap();
        assert_eq!(bench.report(CLUSTER).standing, Standing::Stale);
        assert_eq!(bench.nack(CLUSTER, &sent.nonce), Heard::Nacked);
        let report = bench.report(CLUSTER);
        assert_eq!((report.standing, report.error.as_deref()), (Standing::Nacked, Some("no")));
        assert_eq!(bench.next(), None, "{flavour:?}");
        bench.publish(&[(CLUSTER, &[("a", "2")])]);
        assert_eq!(bench.settle().len(), 1);
        let report = bench.report(CLUSTER);
        assert_eq!((report.standing, report.error), (Standing::Acked, None), "{flavour:?}");
    }
}

#[test]
fn clusters_that_are_sent_again_bring_their_endpoints_along() {
    for flavour in BOTH {
        let mut bench = Bench::new(
            flavour,
            &[(CLUSTER, &[("a", "1"), ("b", "1")]), (ENDPOINTS, &[("a", "ea"), ("b", "eb")])],
        );
        bench.ask(CLUSTER, &[]);
        bench.settle();
        bench.ask(ENDPOINTS, &["a", "b"]);
        bench.settle();
        bench.publish(&[(CLUSTER, &[("a", "2"), ("b", "1")])]);
        let endpoints = if flavour == Flavour::World { "EDS ea" } else { "EDS a" };
        let clusters = if flavour == Flavour::World { "CDS 2,1" } else { "CDS a" };
        assert_eq!(bench.settle(), [clusters, endpoints]);
    }
}

#[test]
fn counts_of_resources_follow_what_was_sent() {
    for flavour in BOTH {
        let mut bench =
            Bench::new(flavour, &[(ENDPOINTS, &[("a", "1"), ("b", "1")]), (LISTENER, &[("l", "1")])]);
        bench.ask(ENDPOINTS, &["a", "c"]);
        bench.ask(LISTENER, &[]);
        bench.settle();
        assert_eq!((bench.report(ENDPOINTS).resources, bench.report(LISTENER).resources), (1, 1));
        bench.publish(&[(ENDPOINTS, &[("a", "1"), ("b", "1"), ("c", "1")])]);
        bench.settle();
        assert_eq!(bench.report(ENDPOINTS).resources, 2, "{flavour:?}");
        bench.publish(&[(ENDPOINTS, &[("c", "1")])]);
        bench.settle();
        assert_eq!(bench.report(ENDPOINTS).resources, 1, "{flavour:?}");
    }
}

#[test]
fn a_cluster_goes_after_the_listener_that_led_to_it() {
    for flavour in BOTH {
        let mut bench = Bench::new(
            flavour,
            &[(CLUSTER, &[("a", "a"), ("b", "b")]), (LISTENER, &[("l", "to-b"), ("m", "to-a")])],
        );
        bench.ask(CLUSTER, &[]);
        bench.ask(LISTENER, &[]);
        bench.settle();
        bench.publish(&[(CLUSTER, &[("a", "a"), ("c", "c")]), (LISTENER, &[("l", "to-c"), ("m", "to-a")])]);
        let expected: &[&str] = match flavour {
            Flavour::World => &["CDS a,b,c", "LDS to-c,to-a", "CDS a,c"],
            Flavour::Delta => &["CDS c", "LDS l", "CDS -b"],
        };
        assert_eq!(bench.settle(), expected);
        assert_eq!(bench.report(CLUSTER).resources, 2);
        // Nothing leads to it any more: it goes at once.
        bench.publish(&[(CLUSTER, &[("c", "c")])]);
        let gone = if flavour == Flavour::World { "CDS c" } else { "CDS -a" };
        assert_eq!(bench.settle(), [gone]);
    }
}

#[test]
fn bad_requests_name_what_is_wrong() {
    let mut bench = Bench::new(Flavour::Delta, &[]);
    let mut heard = |request| bench.subscriptions.heard(request, &bench.view, &bench.cache);
    assert_eq!(heard(Request::default()), Err(BadRequest::NoType));
    let long = Request {
        type_url: LISTENER.into(),
        names: Wanted::Exactly(vec!["x".repeat(5000).into()]),
        ..Request::default()
    };
    assert_eq!(heard(long), Err(BadRequest::LongName(LISTENER.into(), 5000)));
    for at in 0..MAX_TYPES {
        heard(Request { type_url: format!("t{at}"), ..Request::default() }).unwrap();
    }
    let more = heard(Request { type_url: "more".into(), ..Request::default() });
    assert_eq!(more, Err(BadRequest::TooManyTypes("more".into())));
}

mod delta;
mod world;
