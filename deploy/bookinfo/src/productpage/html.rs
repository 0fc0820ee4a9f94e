//! The pages. Everything that comes from another service is escaped.

use std::fmt::Write as _;

use http::StatusCode;
use serde_json::Value;

use super::Part;
use crate::origin::Origin;

pub(super) const TITLE: &str = "The Comedy of Errors";
pub(super) const SUMMARY: &str = "Two pairs of twins, parted in a shipwreck, come to the same town on the same day. \
    Everybody is taken for somebody else until the evening. Shakespeare wrote it early, and nothing of his is shorter.";
pub(super) const STYLE: &str = include_str!("bookinfo.css");

const MAX_STARS: i64 = 5;

/// The page at `/`.
pub(super) fn index(origin: &Origin) -> String {
    let mut body = String::from(
        "<section><h2>Hello</h2><p>This is a simple bookstore application, made of services that call one another.</p>\
         <p><a class=\"button\" href=\"/productpage\">The product page</a></p></section>",
    );
    body.push_str(&answered(&[("productpage", Some(origin.clone()))]));
    frame(None, &body)
}

/// The page at `/productpage`.
pub(super) fn product(origin: &Origin, user: Option<&str>, details: &Part, reviews: &Part) -> String {
    let served_by = |part: &Part, key: &str| -> Option<Origin> {
        part.as_ref().ok().and_then(|body| serde_json::from_value(body.get(key)?.clone()).ok())
    };
    let body = format!(
        "<section class=\"book\"><h2>{TITLE}</h2><p>{}</p></section><div class=\"columns\">{}{}</div>{}",
        escape(SUMMARY),
        details_card(details),
        reviews_card(reviews),
        answered(&[
            ("productpage", Some(origin.clone())),
            ("details", served_by(details, "servedBy")),
            ("reviews", served_by(reviews, "servedBy")),
            ("ratings", served_by(reviews, "ratingsServedBy")),
        ]),
    );
    frame(user, &body)
}

fn details_card(details: &Part) -> String {
    let book = match details {
        Ok(book) => book,
        Err((status, text)) => return unavailable("Book details", "details", *status, text),
    };
    let mut rows = String::new();
    for (label, key) in [
        ("Type", "type"),
        ("Pages", "pages"),
        ("Publisher", "publisher"),
        ("Language", "language"),
        ("Year", "year"),
        ("ISBN-10", "ISBN-10"),
        ("ISBN-13", "ISBN-13"),
    ] {
        let value = book.get(key).map(text_of).unwrap_or_default();
        let _ = write!(rows, "<dt>{label}</dt><dd>{}</dd>", escape(&value));
    }
    format!("<section id=\"details\"><h3>Book details</h3><dl>{rows}</dl></section>")
}

fn reviews_card(reviews: &Part) -> String {
    let body = match reviews {
        Ok(body) => body,
        Err((status, text)) => return unavailable("Book reviews", "reviews", *status, text),
    };
    let mut cards = String::new();
    for review in body.get("reviews").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| review.get(key).map(text_of).unwrap_or_default();
        let _ = writeln!(
            cards,
            "<blockquote><p>{}</p><footer>{}</footer>{}</blockquote>",
            escape(&text("text")),
            escape(&text("reviewer")),
            rating(review.get("rating"))
        );
    }
    format!("<section id=\"reviews\"><h3>Book reviews</h3>\n{cards}</section>")
}

fn rating(rating: Option<&Value>) -> String {
    let Some(rating) = rating else { return String::new() };
    if let Some(error) = rating.get("error") {
        return format!("<p class=\"problem\">{}</p>", escape(&text_of(error)));
    }
    let stars = rating.get("stars").and_then(Value::as_i64).unwrap_or(0).clamp(0, MAX_STARS);
    let colour = if rating.get("color").and_then(Value::as_str) == Some("red") { "red" } else { "black" };
    let (full, hollow) =
        (usize::try_from(stars).unwrap_or(0), usize::try_from(MAX_STARS - stars).unwrap_or(0));
    format!(
        "<p class=\"stars {colour}\" title=\"{stars} of {MAX_STARS} stars\">{}<span>{}</span></p>",
        "★".repeat(full),
        "☆".repeat(hollow)
    )
}

fn unavailable(title: &str, id: &str, status: StatusCode, text: &str) -> String {
    format!(
        "<section id=\"{id}\"><h3>{title}</h3><p class=\"problem\">Error fetching product {id}! ({})<br>{}</p></section>",
        status.as_u16(),
        escape(text)
    )
}

fn answered(by: &[(&str, Option<Origin>)]) -> String {
    let mut rows = String::new();
    for (service, origin) in by {
        let Some(origin) = origin else {
            let _ = writeln!(
                rows,
                "<tr class=\"silent\"><td>{service}</td><td colspan=\"3\">no answer</td></tr>"
            );
            continue;
        };
        let _ = writeln!(
            rows,
            "<tr><td>{service}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&origin.version),
            escape(&origin.cluster),
            escape(&origin.workload)
        );
    }
    format!(
        "<section id=\"answered\"><h3>Who answered</h3><table><thead><tr><th>Service</th><th>Version</th>\
         <th>Cluster</th><th>Workload</th></tr></thead><tbody>\n{rows}</tbody></table></section>"
    )
}

fn frame(user: Option<&str>, body: &str) -> String {
    let user = match user {
        Some(user) => format!("<span>{}</span> <a href=\"/logout\">Sign out</a>", escape(user)),
        None => "<form method=\"post\" action=\"/login\"><input name=\"username\" placeholder=\"Name\" \
                 aria-label=\"Name\" required maxlength=\"64\"><button>Sign in</button></form>"
            .to_string(),
    };
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Bookinfo</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><link rel=\"icon\" href=\"data:,\">\
         <link rel=\"stylesheet\" href=\"/static/bookinfo.css\"></head><body><header><h1><a href=\"/\">Bookinfo</a></h1>\
         <div class=\"user\">{user}</div></header><main>{body}</main></body></html>\n"
    )
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_services_say_is_escaped() {
        let reviews = serde_json::json!({ "reviews": [{ "reviewer": "<b>", "text": "\"&'", "rating": { "stars": 9 } }] });
        let page = product(&Origin::default(), Some("<i>"), &Ok(Value::Null), &Ok(reviews));
        assert!(
            page.contains("&lt;b&gt;") && page.contains("&quot;&amp;&#39;") && page.contains("&lt;i&gt;")
        );
        assert!(page.contains("5 of 5 stars"), "stars are bounded");
    }

    #[test]
    fn a_silent_service_is_shown_as_silent() {
        let silent = Err((StatusCode::BAD_GATEWAY, "Sorry".to_string()));
        let page = product(&Origin::default(), None, &silent, &silent);
        assert!(page.contains("Error fetching product reviews! (502)"));
        assert_eq!(page.matches("no answer").count(), 3);
    }
}
