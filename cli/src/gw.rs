//! `isthmus gw top`: what a gateway relays, as it does.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use comfy_table::{Cell, CellAlignment};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};

use crate::args::{By, Format, GwCommand, Order, TopArgs};
use crate::output::{self, age, cell, table};

/// Largest page that is read: a gateway tells at most some ten thousand connections.
const LARGEST: usize = 64 * 1024 * 1024;
/// Rows where the terminal does not say how many it has.
const ROWS: usize = 40;
/// Rows of a terminal that the headings need.
const HEADINGS: usize = 4;

/// `/flows` of a gateway's admin pages.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    /// Connections that are open; those in `flows` may be fewer.
    open: usize,
    flows: Vec<Flow>,
}

/// One connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Flow {
    id: u64,
    source: SocketAddr,
    #[serde(default)]
    source_network: String,
    #[serde(default)]
    server_name: String,
    #[serde(default)]
    service: String,
    #[serde(default)]
    destination_cluster: String,
    #[serde(default)]
    upstream: String,
    age_ms: u64,
    /// From the client.
    received: u64,
    /// To the client.
    sent: u64,
    /// Bytes a second since the last look, both ways.
    #[serde(default)]
    rate: u64,
}

/// Runs one command.
pub(crate) async fn run(command: &GwCommand) -> anyhow::Result<()> {
    match command {
        GwCommand::Top(args) => top(args).await,
    }
}

async fn top(args: &TopArgs) -> anyhow::Result<()> {
    let mut before = Look::default();
    if args.once {
        let mut page = fetch(args.admin, args.interval).await?;
        before.rates(&mut page, Instant::now());
        if args.sort == Order::Rate {
            // a rate needs two looks
            tokio::time::sleep(args.interval).await;
            page = fetch(args.admin, args.interval).await?;
            before.rates(&mut page, Instant::now());
        }
        return show(args, page, usize::MAX);
    }
    let mut ticks = tokio::time::interval(args.interval.max(Duration::from_millis(100)));
    let live = args.output.output == Format::Text && std::io::IsTerminal::is_terminal(&std::io::stdout());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            stopped = tokio::signal::ctrl_c() => return stopped.context("Ctrl-C"),
        }
        let mut page = fetch(args.admin, args.interval).await?;
        before.rates(&mut page, Instant::now());
        let rows = terminal_size::terminal_size().map_or(ROWS, |(_, height)| usize::from(height.0));
        if live {
            // home, and nothing of the last look below
            output::print("\u{1b}[H\u{1b}[J")?;
        }
        show(args, page, rows.saturating_sub(HEADINGS).max(1))?;
    }
}

async fn fetch(admin: SocketAddr, within: Duration) -> anyhow::Result<Page> {
    let asked = async {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let uri = format!("http://{admin}/flows").parse().context("the admin address")?;
        let answer = client.get(uri).await.with_context(|| {
            format!(
                "no gateway answers at {admin}: run this on the gateway's host, or name its --admin address"
            )
        })?;
        if !answer.status().is_success() {
            bail!("{admin}/flows: {}; is this an isthmus-eastwest-gw of this version?", answer.status());
        }
        let body =
            Limited::new(answer.into_body(), LARGEST).collect().await.map_err(anyhow::Error::from_boxed)?;
        serde_json::from_slice(&body.to_bytes()).with_context(|| format!("{admin}/flows"))
    };
    let patience = within.max(Duration::from_secs(5));
    tokio::time::timeout(patience, asked).await.with_context(|| format!("{admin} does not answer"))?
}

/// What was seen last, for rates.
#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    bytes: HashMap<u64, u64>,
}

impl Look {
    fn rates(&mut self, page: &mut Page, now: Instant) {
        let passed = self.at.map(|at| now.duration_since(at));
        for flow in &mut page.flows {
            let bytes = flow.received + flow.sent;
            let (since, over) = match (self.bytes.get(&flow.id), passed) {
                (Some(known), Some(passed)) => (bytes.saturating_sub(*known), passed),
                // new since the last look, or this is the first
                _ => (bytes, Duration::from_millis(flow.age_ms)),
            };
            let millis = over.as_millis().max(1);
            flow.rate = u64::try_from(u128::from(since) * 1000 / millis).unwrap_or(u64::MAX);
        }
        self.bytes = page.flows.iter().map(|flow| (flow.id, flow.received + flow.sent)).collect();
        self.at = Some(now);
    }
}

fn show(args: &TopArgs, mut page: Page, rows: usize) -> anyhow::Result<()> {
    let rows = args.rows.unwrap_or(rows);
    if args.output.output != Format::Text {
        sort(&mut page.flows, args.sort);
        page.flows.truncate(rows);
        return output::structured(&page, args.output.output);
    }
    output::print(&render(args, &page, rows))
}

fn sort(flows: &mut [Flow], order: Order) {
    let key = |flow: &Flow| match order {
        Order::Rate => flow.rate,
        Order::Bytes => flow.received + flow.sent,
        Order::Age => flow.age_ms,
    };
    flows.sort_by_key(|flow| (std::cmp::Reverse(key(flow)), flow.id));
}

fn render(args: &TopArgs, page: &Page, rows: usize) -> String {
    let rate: u64 = page.flows.iter().map(|flow| flow.rate).sum();
    let mut text = format!("{} connections open, {}/s through them\n\n", page.open, size(rate));
    if page.flows.is_empty() {
        text.push_str("nothing is relayed now\n");
        return text;
    }
    text.push_str(&match args.by {
        By::Connection => connections(page, args.sort, rows),
        By::Service => groups("SERVICE", page, args.sort, rows, |flow| {
            let name = if flow.service.is_empty() { &flow.server_name } else { &flow.service };
            (name.clone(), flow.destination_cluster.clone())
        }),
        By::Source => groups("SOURCE", page, args.sort, rows, |flow| {
            (flow.source.ip().to_canonical().to_string(), flow.source_network.clone())
        }),
    });
    let told = page.flows.len();
    if told < page.open {
        text.push_str(&format!("\nof {} connections the gateway tells of {told}\n", page.open));
    }
    text
}

fn connections(page: &Page, order: Order, rows: usize) -> String {
    let mut flows = page.flows.clone();
    sort(&mut flows, order);
    let row = |flow: &Flow| {
        vec![
            cell(flow.source.to_string()),
            cell(&flow.source_network),
            cell(if flow.service.is_empty() { &flow.server_name } else { &flow.service }),
            cell(&flow.destination_cluster),
            cell(&flow.upstream),
            number(age(Duration::from_millis(flow.age_ms))),
            number(size(flow.received)),
            number(size(flow.sent)),
            number(format!("{}/s", size(flow.rate))),
        ]
    };
    let headers = ["SOURCE", "NETWORK", "SERVICE", "CLUSTER", "UPSTREAM", "AGE", "RECEIVED", "SENT", "RATE"];
    table(&headers, flows.iter().take(rows).map(row).collect())
}

fn groups(
    title: &str,
    page: &Page,
    order: Order,
    rows: usize,
    key: impl Fn(&Flow) -> (String, String),
) -> String {
    let mut groups: BTreeMap<(String, String), (usize, Flow)> = BTreeMap::new();
    for flow in &page.flows {
        match groups.entry(key(flow)) {
            std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert((1, flow.clone()))),
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let (count, sum) = entry.get_mut();
                *count += 1;
                sum.received += flow.received;
                sum.sent += flow.sent;
                sum.rate += flow.rate;
                sum.age_ms = sum.age_ms.max(flow.age_ms);
            }
        }
    }
    let mut named: HashMap<u64, ((String, String), usize)> = HashMap::new();
    let mut sums = Vec::new();
    for (name, (count, sum)) in groups {
        named.insert(sum.id, (name, count));
        sums.push(sum);
    }
    sort(&mut sums, order);
    let row = |sum: &Flow| {
        let ((name, second), count) = &named[&sum.id];
        vec![
            cell(name),
            cell(second),
            number(count.to_string()),
            number(age(Duration::from_millis(sum.age_ms))),
            number(size(sum.received)),
            number(size(sum.sent)),
            number(format!("{}/s", size(sum.rate))),
        ]
    };
    let second = if title == "SOURCE" { "NETWORK" } else { "CLUSTER" };
    let headers = [title, second, "CONNECTIONS", "OLDEST", "RECEIVED", "SENT", "RATE"];
    table(&headers, sums.iter().take(rows).map(row).collect())
}

fn number(text: String) -> Cell {
    cell(text).set_alignment(CellAlignment::Right)
}

/// `512 B`, `1.5 kB`, `20 MB`: powers of a thousand.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut whole = bytes;
    let mut tenths = 0;
    let mut unit = 0;
    while whole >= 1000 {
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit += 1;
    }
    let unit = UNITS.get(unit - 1).unwrap_or(&"PB");
    if whole < 10 { format!("{whole}.{tenths} {unit}") } else { format!("{whole} {unit}") }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn args(line: &str) -> TopArgs {
        let line = format!("isthmus gw top {line}");
        match Args::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Gw(GwCommand::Top(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    fn page() -> Page {
        serde_json::from_value(serde_json::json!({"open": 3, "flows": [
            {"id": 1, "source": "10.1.0.5:4000", "sourceNetwork": "east", "service": "reviews.shop.svc.cluster.local",
             "destinationCluster": "west", "upstream": "10.2.0.9:9080", "ageMs": 184_000, "received": 1_500, "sent": 20_400_000},
            {"id": 2, "source": "10.1.0.5:4001", "sourceNetwork": "east", "service": "reviews.shop.svc.cluster.local",
             "destinationCluster": "west", "upstream": "10.2.0.9:9080", "ageMs": 500, "received": 10, "sent": 0},
            {"id": 3, "source": "10.9.0.1:4000", "serverName": "istiod.istio-system.svc", "ageMs": 2_000, "received": 7, "sent": 999},
        ]}))
        .unwrap()
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_busiest_connection_comes_first() {
        let (mut page, mut look) = (page(), Look::default());
        let now = Instant::now();
        look.rates(&mut page, now);
        page.flows[1].received += 3_000_000;
        look.rates(&mut page, now + Duration::from_secs(2));
        let text = plain(&render(&args(""), &page, 2));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "3 connections open, 1.5 MB/s through them");
        assert!(lines[3].starts_with("10.1.0.5:4001  east") && lines[3].ends_with("1.5 MB/s"), "{text}");
        assert!(lines[4].contains("3m4s") && lines[4].contains("20 MB"), "{text}");
        assert_eq!(lines.len(), 5, "{text}");
    }

    #[test]
    fn a_service_is_one_row() {
        let mut page = page();
        Look::default().rates(&mut page, Instant::now());
        let text = plain(&render(&args("--by service --sort bytes"), &page, 40));
        let row = text.lines().nth(3).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[..3], ["reviews.shop.svc.cluster.local", "west", "2"], "{text}");
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 999, 1_000, 1_540, 20_400_000, 1_000_000_000_000];
        assert_eq!(sizes.map(size), ["0 B", "999 B", "1.0 kB", "1.5 kB", "20 MB", "1.0 TB"]);
    }
}
