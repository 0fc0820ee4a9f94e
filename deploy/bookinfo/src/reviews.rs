//! reviews: two reviews of a book. v1 has no stars, v2 black ones, v3 red ones; the stars come from ratings.

use std::time::Duration;

use clap::Args;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as value};

use crate::client::Upstream;
use crate::origin::Origin;
use crate::server::{Answer, Ask, Reply, failure, json, not_an_id, not_found};

const BLACK_WITHIN: Duration = Duration::from_secs(10);
const COLOURED_WITHIN: Duration = Duration::from_millis(2500);
const TEXTS: [(&str, &str); 2] = [
    ("Reviewer1", "Read it in one evening and laughed aloud on every second page."),
    ("Reviewer2", "Great fun, though I lost track of which twin was which and did not mind."),
];

/// Flags of reviews.
#[derive(Debug, Clone, Args)]
pub(crate) struct Config {
    /// Ask ratings for stars; by default v1 does not, every other version does
    #[arg(long, env = "ENABLE_RATINGS", action = clap::ArgAction::Set)]
    enable_ratings: Option<bool>,
    /// Colour of the stars; by default red for v3, black for others
    #[arg(long, env = "STAR_COLOR")]
    star_color: Option<String>,
    /// Domain put behind the names of other services
    #[arg(long, env = "SERVICES_DOMAIN", default_value = "")]
    services_domain: String,
    /// Name of ratings
    #[arg(long, env = "RATINGS_HOSTNAME", default_value = "ratings")]
    ratings_hostname: String,
    /// Port of ratings
    #[arg(long, env = "RATINGS_SERVICE_PORT", default_value_t = 9080)]
    ratings_port: u16,
}

pub(crate) struct Reviews {
    origin: Origin,
    /// None in v1.
    ratings: Option<Upstream>,
    color: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    id: String,
    podname: &'a str,
    clustername: &'a str,
    reviews: Vec<Review>,
    served_by: &'a Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratings_served_by: Option<Origin>,
}

#[derive(Serialize)]
struct Review {
    reviewer: &'static str,
    text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rating: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Stars {
    ratings: std::collections::BTreeMap<String, i64>,
    served_by: Option<Origin>,
    error: Option<String>,
}

impl Reviews {
    pub(crate) fn new(config: Config, origin: Origin) -> Self {
        let color = config.star_color.unwrap_or_else(|| {
            let color = if origin.version == "v3" { "red" } else { "black" };
            color.to_string()
        });
        let enabled = config.enable_ratings.unwrap_or(origin.version != "v1");
        let ratings = enabled
            .then(|| Upstream::new(&config.ratings_hostname, &config.services_domain, config.ratings_port));
        Self { origin, ratings, color }
    }

    async fn stars(&self, ratings: &Upstream, id: u32, headers: &HeaderMap) -> Stars {
        let within = if self.color == "black" { BLACK_WITHIN } else { COLOURED_WITHIN };
        let problem = match ratings.get(&format!("/ratings/{id}"), headers, within).await {
            Ok((StatusCode::OK, body)) => match serde_json::from_slice::<Stars>(&body) {
                Ok(stars) => return stars,
                Err(error) => format!("the answer of ratings is not understood: {error}"),
            },
            Ok((status, _)) => format!("ratings answered {status}"),
            Err(error) => error,
        };
        eprintln!("{problem}");
        Stars { error: Some("Ratings service is currently unavailable".into()), ..Stars::default() }
    }

    async fn reviews(&self, id: u32, headers: &HeaderMap) -> Reply {
        let stars = match &self.ratings {
            Some(ratings) => Some(self.stars(ratings, id, headers).await),
            None => None,
        };
        let reviews = TEXTS.map(|(reviewer, text)| {
            let rating = stars.as_ref().map(|stars| match (&stars.error, stars.ratings.get(reviewer)) {
                (Some(error), _) => value!({ "error": error }),
                (None, Some(count)) => value!({ "stars": count, "color": self.color }),
                (None, None) => value!({ "error": "Ratings service has no such reviewer" }),
            });
            Review { reviewer, text, rating }
        });
        let body = Body {
            id: id.to_string(),
            podname: &self.origin.workload,
            clustername: &self.origin.cluster,
            reviews: reviews.into(),
            served_by: &self.origin,
            ratings_served_by: stars.and_then(|stars| stars.served_by),
        };
        json(StatusCode::OK, &body)
    }
}

impl Answer for Reviews {
    async fn answer(&self, ask: Ask) -> Reply {
        match ask.segments().as_slice() {
            ["health"] => json(StatusCode::OK, &value!({ "status": "Reviews is healthy" })),
            ["reviews", id] if ask.method == Method::GET => match id.parse() {
                Ok(id) => self.reviews(id, &ask.headers).await,
                Err(_) => not_an_id(),
            },
            ["reviews", _] => failure(StatusCode::METHOD_NOT_ALLOWED, "reviews are read only"),
            _ => not_found(&ask),
        }
    }
}
