//! details: facts about a book.

use http::{Method, StatusCode};
use serde::Serialize;

use crate::origin::Origin;
use crate::server::{Answer, Ask, Reply, failure, json, not_an_id, not_found};

pub(crate) struct Details {
    origin: Origin,
}

#[derive(Serialize)]
struct Book<'a> {
    id: u32,
    author: &'static str,
    year: u16,
    r#type: &'static str,
    pages: u16,
    publisher: &'static str,
    language: &'static str,
    #[serde(rename = "ISBN-10")]
    isbn_10: &'static str,
    #[serde(rename = "ISBN-13")]
    isbn_13: &'static str,
    #[serde(rename = "servedBy")]
    served_by: &'a Origin,
}

impl Details {
    pub(crate) fn new(origin: Origin) -> Self {
        Self { origin }
    }
}

impl Answer for Details {
    async fn answer(&self, ask: Ask) -> Reply {
        match ask.segments().as_slice() {
            ["health"] => json(StatusCode::OK, &serde_json::json!({ "status": "Details is healthy" })),
            ["details", id] if ask.method == Method::GET => match id.parse() {
                Ok(id) => json(
                    StatusCode::OK,
                    &Book {
                        id,
                        author: "William Shakespeare",
                        year: 1595,
                        r#type: "paperback",
                        pages: 200,
                        publisher: "PublisherA",
                        language: "English",
                        isbn_10: "1234567890",
                        isbn_13: "123-1234567890",
                        served_by: &self.origin,
                    },
                ),
                Err(_) => not_an_id(),
            },
            ["details", _] => failure(StatusCode::METHOD_NOT_ALLOWED, "details are read only"),
            _ => not_found(&ask),
        }
    }
}
