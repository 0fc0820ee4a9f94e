//! Watches: changes as lines of JSON, until the client leaves or its time is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer;
use super::resource::Call;
use crate::api::Api;
use crate::cache::{Change, Cursor, Object};
use crate::kinds::Kind;
use crate::request::Form;
use crate::selector::Selector;
use crate::status::{ApiError, Cause};
use crate::table;

/// How often a watch that asked for bookmarks gets one.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// The state of one watch.
struct Watch {
    api: Arc<Api>,
    kind: Arc<Kind>,
    prefix: String,
    selector: Selector,
    form: Form,
    bookmarks: bool,
    /// Send the columns of a table with the next event only.
    columns: bool,
    cursor: Cursor,
    changed: watch::Receiver<u64>,
    waiting: VecDeque<Bytes>,
    next_bookmark: Instant,
    end: Instant,
    over: bool,
}

impl Call {
    pub(super) async fn watch(&self, form: Form) -> Result<Response, ApiError> {
        let api = &self.handler.api;
        let selector =
            Selector::parse(&self.kind, self.query.get("labelSelector"), self.query.get("fieldSelector"))?;
        let from = self.query.number("resourceVersion").map_err(|_| {
            let text = self.query.get("resourceVersion").unwrap_or_default();
            let cause = Cause::invalid("resourceVersion", &text.into(), "strconv.ParseUint: invalid syntax");
            ApiError::invalid(&self.kind, "", vec![cause])
        })?;
        let initial = self.query.flag("sendInitialEvents");
        if initial && self.query.get("resourceVersionMatch") != Some("NotOlderThan") {
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires \
                 setting resourceVersionMatch to NotOlderThan",
            ));
        }
        let seconds = match self.query.number("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => seconds.min(24 * 3600),
            _ => rand::random_range(1800..3600),
        };
        if let Some(from) = from {
            api.cache.reach(from).await?;
        }
        let collection = api.collection(&self.kind);
        let changed = collection.subscribe();
        let prefix = match self.target.namespace.as_str() {
            "" => String::new(),
            namespace => format!("{namespace}/"),
        };
        let now = Instant::now();
        let at = api.cache.revision();
        let skipped = self.query.get("sendInitialEvents").is_some() && !initial;
        let from_now = from.unwrap_or(0) == 0 || initial;
        let mut watch = Watch {
            api: Arc::clone(api),
            kind: Arc::clone(&self.kind),
            prefix: prefix.clone(),
            selector,
            form,
            bookmarks: self.query.flag("allowWatchBookmarks"),
            columns: true,
            cursor: Cursor::new(Arc::clone(&collection), if from_now { at } else { from.unwrap_or(0) }),
            changed,
            waiting: VecDeque::new(),
            next_bookmark: now + BOOKMARKS,
            end: now + Duration::from_secs(seconds),
            over: false,
        };
        if from_now && !skipped {
            let objects = collection.list_at(&prefix, at).map_err(|_| too_old(at, at))?;
            for (_, object) in objects {
                if watch.selector.matches(&object.value) {
                    watch.send("ADDED", &object);
                }
            }
            if initial {
                watch.bookmark(at, true);
            }
        }
        // A revision that is forgotten is refused before the stream begins.
        watch.read();
        let stream = futures::stream::unfold(watch, |mut watch| async move {
            let chunk = watch.next().await?;
            Some((Ok::<Bytes, std::convert::Infallible>(chunk), watch))
        });
        let content =
            [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache, private")];
        Ok((StatusCode::OK, content, Body::from_stream(stream)).into_response())
    }
}

impl Watch {
    /// The next lines; nothing when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.waiting.is_empty() {
                let mut chunk = Vec::new();
                for line in self.waiting.drain(..) {
                    chunk.extend_from_slice(&line);
                }
                return Some(Bytes::from(chunk));
            }
            if self.over {
                return None;
            }
            tokio::select! {
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                    self.read();
                }
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARKS;
                    // The revision first: everything up to it is then in the collection.
                    let at = self.api.cache.revision();
                    self.read();
                    self.bookmark(at.max(self.cursor.read), false);
                }
                () = tokio::time::sleep_until(self.end) => {
                    self.over = true;
                    if self.bookmarks {
                        let at = self.api.cache.revision();
                        self.read();
                        self.bookmark(at.max(self.cursor.read), false);
                    }
                }
            }
        }
    }

    /// Takes what has happened since.
    fn read(&mut self) {
        loop {
            match self.cursor.next() {
                Ok(changes) if changes.is_empty() => return,
                Ok(changes) => {
                    for change in changes {
                        self.change(&change);
                    }
                    // The rest is read once these lines are sent: the store's notice is still pending then.
                    if self.waiting.len() > 1024 {
                        self.changed.mark_changed();
                        return;
                    }
                }
                Err(expired) => {
                    let status = too_old(self.cursor.read, expired.oldest).status();
                    self.line(&json!({"type": "ERROR", "object": status}));
                    self.over = true;
                    return;
                }
            }
        }
    }

    fn change(&mut self, change: &Change) {
        let inside = self.prefix.is_empty() || change.object.namespace() == self.prefix.trim_end_matches('/');
        if !inside {
            return;
        }
        let before = change.old.as_ref().is_some_and(|old| self.selector.matches(&old.value));
        let after = !change.deleted && self.selector.matches(&change.object.value);
        match (before, after) {
            (false, true) => self.send("ADDED", &change.object),
            (true, true) => self.send("MODIFIED", &change.object),
            // An object that no longer matches is shown as it was, with the revision of the change.
            (true, false) if !change.deleted => {
                let old = change.old.as_ref().map_or(Value::Null, |old| old.value.clone());
                self.send("DELETED", &Arc::new(Object::new(old, change.revision)));
            }
            (true, false) => self.send("DELETED", &change.object),
            (false, false) => {}
        }
    }

    fn send(&mut self, event: &str, object: &Arc<Object>) {
        match self.form {
            Form::Object => {
                let json = answer::bytes(&self.kind, object);
                let mut line = Vec::with_capacity(json.len() + 40);
                line.extend_from_slice(format!("{{\"type\":\"{event}\",\"object\":").as_bytes());
                line.extend_from_slice(&json);
                line.extend_from_slice(b"}\n");
                self.waiting.push_back(Bytes::from(line));
            }
            Form::Table => {
                let metadata = json!({"resourceVersion": object.revision.to_string()});
                let columns = std::mem::take(&mut self.columns);
                let table =
                    table::table(&self.api, &self.kind, std::slice::from_ref(object), columns, metadata);
                self.line(&json!({"type": event, "object": table}));
            }
            Form::Metadata => self.line(&json!({"type": event, "object": answer::metadata_only(object)})),
        }
    }

    fn bookmark(&mut self, at: u64, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": at.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
            Form::Table => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": [], "rows": [
                {"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata}}], "metadata": {"resourceVersion": at.to_string()}})
            }
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
        };
        self.line(&json!({"type": "BOOKMARK", "object": object}));
    }

    fn line(&mut self, value: &Value) {
        let mut line = value.to_string();
        line.push('\n');
        self.waiting.push_back(Bytes::from(line));
    }
}

fn too_old(asked: u64, oldest: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
}
