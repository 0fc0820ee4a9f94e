//! Snapshots to views: each open stream has a watch with the newest view of its proxy.

use std::collections::HashMap;
use std::sync::Arc;

use isthmus_envoy::{Proxy, Translator};
use isthmus_lifecycle::Signal;
use isthmus_proto::resource::View;
use isthmus_registry::Snapshot;
use parking_lot::Mutex;
use tokio::sync::watch;

/// All streams' proxies with their views. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Views(Arc<Inner>);

/// One open stream: its proxy, and where its newest view goes.
type Open = (Arc<Proxy>, watch::Sender<Arc<View>>);

#[derive(Debug)]
struct Inner {
    translator: Translator,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    open: Mutex<HashMap<u64, Open>>,
}

impl Views {
    /// Views of these snapshots.
    #[must_use]
    pub fn new(translator: Translator, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self(Arc::new(Inner { translator, snapshots, open: Mutex::default() }))
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.snapshots.borrow())
    }

    /// Snapshots as they come.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.snapshots.clone()
    }

    /// Starts serving a proxy; it is told of changes until [`Views::close`].
    #[must_use]
    pub fn open(&self, stream: u64, proxy: Proxy) -> watch::Receiver<Arc<View>> {
        let proxy = Arc::new(proxy);
        let view = self.0.translator.view(&self.snapshot(), &proxy);
        let (sender, receiver) = watch::channel(view);
        self.0.open.lock().insert(stream, (Arc::clone(&proxy), sender.clone()));
        // A snapshot that came in between was perhaps not applied to this stream.
        self.refresh(&proxy, &sender, &self.snapshot());
        receiver
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.open.lock().len()
    }

    /// Forgets a stream.
    pub fn close(&self, stream: u64) {
        self.0.open.lock().remove(&stream);
    }

    /// The proxy of an open stream, and its view.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Proxy>, Arc<View>)> {
        let open = self.0.open.lock();
        let (proxy, view) =
            open.values().find(|(proxy, _)| proxy.namespace.as_str() == namespace && *proxy.name == *name)?;
        Some((Arc::clone(proxy), Arc::clone(&view.borrow())))
    }

    /// The proxy of a stream.
    #[must_use]
    pub fn proxy(&self, stream: u64) -> Option<Arc<Proxy>> {
        self.0.open.lock().get(&stream).map(|(proxy, _)| Arc::clone(proxy))
    }

    /// Renews every view whenever a snapshot is published, until told to stop.
    pub async fn run(self, stop: Signal) {
        let mut snapshots = self.0.snapshots.clone();
        loop {
            tokio::select! {
                () = stop.stopping() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
            }
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let open: Vec<_> = self.0.open.lock().values().cloned().collect();
            for (proxy, sender) in open {
                self.refresh(&proxy, &sender, &snapshot);
            }
        }
    }

    fn refresh(&self, proxy: &Proxy, sender: &watch::Sender<Arc<View>>, snapshot: &Arc<Snapshot>) {
        let view = self.0.translator.view(snapshot, proxy);
        sender.send_if_modified(|current| {
            let same = Arc::ptr_eq(current, &view);
            *current = view;
            !same
        });
    }
}
