//! productpage: joins details and reviews into a page, and into JSON under `/api/v1/products`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json as value};

use crate::client::Upstream;
use crate::origin::Origin;
use crate::server::{Answer, Ask, Reply, failure, json, not_an_id, not_found, with_type};

mod html;

const UPSTREAM_WITHIN: Duration = Duration::from_secs(3);
const REVIEWS_TRIES: usize = 2;
const HTML: &str = "text/html; charset=utf-8";
const MAX_FLOOD: u32 = 1000;

/// Flags of productpage.
#[derive(Debug, Clone, Args)]
pub(crate) struct Config {
    /// Domain put behind the names of other services
    #[arg(long, env = "SERVICES_DOMAIN", default_value = "")]
    services_domain: String,
    /// Name of details
    #[arg(long, env = "DETAILS_HOSTNAME", default_value = "details")]
    details_hostname: String,
    /// Port of details
    #[arg(long, env = "DETAILS_SERVICE_PORT", default_value_t = 9080)]
    details_port: u16,
    /// Name of reviews
    #[arg(long, env = "REVIEWS_HOSTNAME", default_value = "reviews")]
    reviews_hostname: String,
    /// Port of reviews
    #[arg(long, env = "REVIEWS_SERVICE_PORT", default_value_t = 9080)]
    reviews_port: u16,
    /// Name of ratings
    #[arg(long, env = "RATINGS_HOSTNAME", default_value = "ratings")]
    ratings_hostname: String,
    /// Port of ratings
    #[arg(long, env = "RATINGS_SERVICE_PORT", default_value_t = 9080)]
    ratings_port: u16,
    /// Further requests to reviews for each page, at most 1000
    #[arg(long, env = "FLOOD_FACTOR", default_value_t = 0)]
    flood_factor: u32,
}

pub(crate) struct Productpage {
    origin: Origin,
    details: Upstream,
    reviews: Upstream,
    ratings: Upstream,
    flood: u32,
    pages: AtomicU64,
    failed_calls: AtomicU64,
}

/// What an upstream said, or the status and text that the page shows instead.
type Part = Result<Value, (StatusCode, String)>;

impl Productpage {
    pub(crate) fn new(config: Config, origin: Origin) -> Self {
        let upstream = |host: &str, port| Upstream::new(host, &config.services_domain, port);
        Self {
            origin,
            details: upstream(&config.details_hostname, config.details_port),
            reviews: upstream(&config.reviews_hostname, config.reviews_port),
            ratings: upstream(&config.ratings_hostname, config.ratings_port),
            flood: config.flood_factor.min(MAX_FLOOD),
            pages: AtomicU64::new(0),
            failed_calls: AtomicU64::new(0),
        }
    }

    async fn ask(&self, of: &Upstream, what: &str, id: u32, tries: usize, headers: &HeaderMap) -> Part {
        let path = format!("/{what}/{id}");
        let mut status = StatusCode::INTERNAL_SERVER_ERROR;
        for _ in 0..tries {
            let problem = match of.get(&path, headers, UPSTREAM_WITHIN).await {
                Ok((StatusCode::OK, body)) => match serde_json::from_slice(&body) {
                    Ok(body) => return Ok(body),
                    Err(error) => format!("the answer of {what} is not JSON: {error}"),
                },
                Ok((answered, _)) => {
                    status = answered;
                    format!("{}{path} answered {answered}", of.url())
                }
                Err(error) => error,
            };
            self.failed_calls.fetch_add(1, Ordering::Relaxed);
            eprintln!("{problem}");
        }
        Err((status, format!("Sorry, product {what} are currently unavailable for this book.")))
    }

    async fn page(&self, headers: &HeaderMap) -> Reply {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let (details, reviews, ()) = tokio::join!(
            self.ask(&self.details, "details", 0, 1, headers),
            self.ask(&self.reviews, "reviews", 0, REVIEWS_TRIES, headers),
            self.flood(headers),
        );
        let user = user_of(headers);
        let page = html::product(&self.origin, user.as_deref(), &details, &reviews);
        with_type(StatusCode::OK, HTML, page.into())
    }

    async fn flood(&self, headers: &HeaderMap) {
        for _ in 0..self.flood {
            // Only load: the answer is of no interest.
            let _ = self.reviews.get("/reviews/0", headers, UPSTREAM_WITHIN).await;
        }
    }

    async fn api(&self, id: &str, what: Option<&str>, headers: &HeaderMap) -> Reply {
        let Ok(id) = id.parse() else { return not_an_id() };
        let part = match what {
            None => self.ask(&self.details, "details", id, 1, headers).await,
            Some("reviews") => self.ask(&self.reviews, "reviews", id, REVIEWS_TRIES, headers).await,
            Some("ratings") => self.ask(&self.ratings, "ratings", id, 1, headers).await,
            Some(other) => return failure(StatusCode::NOT_FOUND, &format!("products have no {other}")),
        };
        match part {
            Ok(body) => json(StatusCode::OK, &body),
            Err((status, error)) => failure(status, &error),
        }
    }

    fn metrics(&self) -> Reply {
        let text = format!(
            "# TYPE bookinfo_pages_total counter\nbookinfo_pages_total {}\n\
             # TYPE bookinfo_failed_calls_total counter\nbookinfo_failed_calls_total {}\n",
            self.pages.load(Ordering::Relaxed),
            self.failed_calls.load(Ordering::Relaxed)
        );
        with_type(StatusCode::OK, "text/plain; version=0.0.4", text.into())
    }
}

impl Answer for Productpage {
    async fn answer(&self, ask: Ask) -> Reply {
        let mut headers = ask.headers.clone();
        if let Some(user) = user_of(&ask.headers).and_then(|user| HeaderValue::from_str(&user).ok()) {
            headers.insert("end-user", user);
        }
        match (&ask.method, ask.segments().as_slice()) {
            (_, ["health"]) => with_type(StatusCode::OK, "text/plain", "Product page is healthy".into()),
            (&Method::GET, [] | ["index.html"]) => {
                with_type(StatusCode::OK, HTML, html::index(&self.origin).into())
            }
            (&Method::GET, ["productpage"]) => self.page(&headers).await,
            (&Method::GET, ["metrics"]) => self.metrics(),
            (&Method::GET, ["static", "bookinfo.css"]) => {
                with_type(StatusCode::OK, "text/css", html::STYLE.into())
            }
            (&Method::POST, ["login"]) => login(&ask),
            (_, ["logout"]) => back_to_the_page("user=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"),
            (&Method::GET, ["api", "v1", "products"]) => json(
                StatusCode::OK,
                &value!([{
                    "id": 0,
                    "title": html::TITLE,
                    "descriptionHtml": html::SUMMARY,
                    "servedBy": self.origin,
                }]),
            ),
            (&Method::GET, ["api", "v1", "products", id]) => self.api(id, None, &headers).await,
            (&Method::GET, ["api", "v1", "products", id, what]) => self.api(id, Some(what), &headers).await,
            _ => not_found(&ask),
        }
    }
}

/// The name of whoever signed in, out of the cookie. It proves nothing, as in the original.
fn user_of(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let user = cookies
        .flat_map(|line| line.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix("user="))
        .filter(|user| is_user(user))?;
    Some(user.to_string())
}

fn is_user(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
}

fn login(ask: &Ask) -> Reply {
    let form = String::from_utf8_lossy(&ask.body);
    match form.split('&').find_map(|field| field.strip_prefix("username=")).filter(|user| is_user(user)) {
        Some(user) => back_to_the_page(&format!("user={user}; Path=/; HttpOnly; SameSite=Lax")),
        None => failure(
            StatusCode::BAD_REQUEST,
            "username is missing, or has other characters than letters, digits, - _ . @",
        ),
    }
}

fn back_to_the_page(cookie: &str) -> Reply {
    let mut reply = with_type(StatusCode::FOUND, "text/plain", "see /productpage".into());
    reply.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/productpage"));
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        reply.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    reply
}
