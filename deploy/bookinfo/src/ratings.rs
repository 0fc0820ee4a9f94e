//! ratings: the reviewers' stars. v1 keeps them in memory; v2 reads them from MySQL with a new connection for each
//! request; `v-faulty`, `v-delayed`, `v-unavailable` and `v-unhealthy` misbehave as in the original.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use http::{Method, StatusCode};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use serde::Serialize;

use crate::origin::Origin;
use crate::server::{Answer, Ask, Reply, failure, json, not_an_id, not_found};

/// Bounds connecting and the query, each.
const DATABASE_WITHIN: Duration = Duration::from_secs(2);
const DELAY: Duration = Duration::from_secs(7);
const UNAVAILABLE_FOR: Duration = Duration::from_secs(60);
const UNHEALTHY_FOR: Duration = Duration::from_secs(15 * 60);
/// Products whose ratings v1 keeps.
const MAX_PRODUCTS: usize = 1000;

/// Flags of ratings.
#[derive(Debug, Clone, Args)]
pub(crate) struct Config {
    /// Kind of database that v2 reads; only mysql
    #[arg(long, env = "DB_TYPE", default_value = "mysql")]
    db_type: String,
    /// Host of the database
    #[arg(long, env = "MYSQL_DB_HOST", default_value = "mysqldb")]
    mysql_host: String,
    /// Port of the database
    #[arg(long, env = "MYSQL_DB_PORT", default_value_t = 3306)]
    mysql_port: u16,
    /// User of the database
    #[arg(long, env = "MYSQL_DB_USER", default_value = "root")]
    mysql_user: String,
    /// Password of the database
    #[arg(long, env = "MYSQL_DB_PASSWORD", default_value = "", hide_env_values = true)]
    mysql_password: String,
}

type Stars = BTreeMap<String, i64>;

#[derive(Debug)]
enum Source {
    Memory(Mutex<BTreeMap<u32, Stars>>),
    Mysql(Box<Config>),
}

/// What the versions of the original do wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    HalfRefused,
    HalfDelayed,
    Unavailable,
    Unhealthy,
}

pub(crate) struct Ratings {
    origin: Origin,
    source: Source,
    fault: Fault,
    started: Instant,
    calls: AtomicU64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    id: u32,
    ratings: Stars,
    served_by: &'a Origin,
}

impl Ratings {
    pub(crate) fn new(config: Config, origin: Origin) -> anyhow::Result<Self> {
        let source = if origin.version.starts_with("v2") {
            if config.db_type != "mysql" {
                bail!("--db-type {:?} is not supported; use mysql", config.db_type);
            }
            Source::Mysql(Box::new(config))
        } else {
            Source::Memory(Mutex::default())
        };
        let fault = match origin.version.as_str() {
            "v-faulty" => Fault::HalfRefused,
            "v-delayed" => Fault::HalfDelayed,
            "v-unavailable" => Fault::Unavailable,
            "v-unhealthy" => Fault::Unhealthy,
            _ => Fault::None,
        };
        Ok(Self { origin, source, fault, started: Instant::now(), calls: AtomicU64::new(0) })
    }

    /// Whether a fault that comes and goes is there now; it begins absent.
    fn is_down(&self, period: Duration) -> bool {
        self.started.elapsed().as_secs() / period.as_secs() % 2 == 1
    }

    fn is_healthy(&self) -> bool {
        self.fault != Fault::Unhealthy || !self.is_down(UNHEALTHY_FOR)
    }

    async fn read(&self, id: u32) -> Reply {
        let every_second = self.calls.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let refused = match self.fault {
            Fault::HalfRefused => every_second,
            Fault::HalfDelayed if every_second => {
                tokio::time::sleep(DELAY).await;
                false
            }
            Fault::Unavailable => self.is_down(UNAVAILABLE_FOR),
            _ => !self.is_healthy(),
        };
        if refused {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "Service unavailable");
        }
        match &self.source {
            Source::Memory(products) => {
                let products = products.lock().unwrap_or_else(PoisonError::into_inner);
                let ratings = products.get(&id).cloned().unwrap_or_else(|| stars(5, 4));
                json(StatusCode::OK, &Body { id, ratings, served_by: &self.origin })
            }
            Source::Mysql(config) => match from_mysql(config).await {
                Ok(ratings) => json(StatusCode::OK, &Body { id, ratings, served_by: &self.origin }),
                // The original answers 200 here; reviews then sees an answer without stars.
                Err(DatabaseError::Connect(error)) => {
                    eprintln!("database {}:{}: {error}", config.mysql_host, config.mysql_port);
                    failure(StatusCode::OK, "could not connect to ratings database")
                }
                Err(DatabaseError::Query(error)) => {
                    eprintln!("database {}:{}: {error}", config.mysql_host, config.mysql_port);
                    failure(StatusCode::INTERNAL_SERVER_ERROR, "could not perform select")
                }
            },
        }
    }

    fn replace(&self, id: u32, body: &[u8]) -> Reply {
        let Source::Memory(products) = &self.source else {
            return failure(StatusCode::NOT_IMPLEMENTED, "Post not implemented for database backed ratings");
        };
        let ratings: Stars = match serde_json::from_slice(body) {
            Ok(ratings) => ratings,
            Err(error) => {
                return failure(
                    StatusCode::BAD_REQUEST,
                    &format!("please provide valid ratings JSON, such as {{\"Reviewer1\": 5}}: {error}"),
                );
            }
        };
        let mut products = products.lock().unwrap_or_else(PoisonError::into_inner);
        if products.len() >= MAX_PRODUCTS && !products.contains_key(&id) {
            return failure(
                StatusCode::INSUFFICIENT_STORAGE,
                "ratings of too many products are kept already",
            );
        }
        products.insert(id, ratings.clone());
        json(StatusCode::OK, &Body { id, ratings, served_by: &self.origin })
    }
}

impl Answer for Ratings {
    async fn answer(&self, ask: Ask) -> Reply {
        match ask.segments().as_slice() {
            ["health"] if self.is_healthy() => {
                json(StatusCode::OK, &serde_json::json!({ "status": "Ratings is healthy" }))
            }
            ["health"] => json(
                StatusCode::INTERNAL_SERVER_ERROR,
                &serde_json::json!({ "status": "Ratings is not healthy" }),
            ),
            ["ratings", id] => match (id.parse(), &ask.method) {
                (Ok(id), &Method::GET) => self.read(id).await,
                (Ok(id), &Method::POST) => self.replace(id, &ask.body),
                (Ok(_), _) => failure(StatusCode::METHOD_NOT_ALLOWED, "ratings take GET and POST"),
                (Err(_), _) => not_an_id(),
            },
            _ => not_found(&ask),
        }
    }
}

fn stars(first: i64, second: i64) -> Stars {
    Stars::from([("Reviewer1".to_string(), first), ("Reviewer2".to_string(), second)])
}

enum DatabaseError {
    Connect(String),
    Query(String),
}

async fn from_mysql(config: &Config) -> Result<Stars, DatabaseError> {
    let options = OptsBuilder::default()
        .ip_or_hostname(&config.mysql_host)
        .tcp_port(config.mysql_port)
        .user(Some(&config.mysql_user))
        .pass(Some(&config.mysql_password))
        .db_name(Some("test"))
        // No second connection over a socket of the server's host.
        .prefer_socket(false);
    let mut connection = tokio::time::timeout(DATABASE_WITHIN, Conn::new(options))
        .await
        .map_err(|_| DatabaseError::Connect("no connection in time".into()))?
        .map_err(|error| DatabaseError::Connect(error.to_string()))?;
    let query = "SELECT Rating FROM ratings ORDER BY ReviewID";
    let rows: Vec<Option<i64>> = tokio::time::timeout(DATABASE_WITHIN, connection.query(query))
        .await
        .map_err(|_| DatabaseError::Query("no answer in time".into()))?
        .map_err(|error| DatabaseError::Query(error.to_string()))?;
    // Its goodbye is a courtesy to the server.
    let _ = tokio::time::timeout(DATABASE_WITHIN, connection.disconnect()).await;
    let row = |index: usize| rows.get(index).copied().flatten().unwrap_or(0);
    Ok(stars(row(0), row(1)))
}
