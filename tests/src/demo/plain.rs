//! Bookinfo and MySQL in one network, without any mesh: what the demo's applications do by themselves.

use std::process::ExitCode;
use std::time::Duration;

use super::check::{Teller, says};
use super::{mysql, networks, tell};
use crate::fabric::{Fabric, Line};
use crate::topology::{self, Network, Plan};

const WITHIN: Duration = Duration::from_secs(10);

pub(super) fn run(fabric: &Fabric, line: &Line) -> anyhow::Result<ExitCode> {
    let mut plans = topology::demo();
    plans.push(Plan::new("mysql", Network::East, 20, ""));
    plans.push(Plan::new("reviews", Network::East, 21, ""));
    plans.push(Plan::new("ratings-v2", Network::East, 22, ""));
    fabric.boot(plans)?;
    let code = tell(
        fabric,
        vec![
            ("Three networks", Box::new(|teller| networks::run(teller, fabric))),
            ("Bookinfo without a mesh", Box::new(|teller| bookinfo(teller, fabric))),
        ],
    );
    if fabric.opening().story == "plain-hang" {
        println!("waiting to be interrupted");
        // Only the launcher's end ends this.
        let _ = line.asks.recv();
    }
    Ok(code)
}

fn bookinfo(teller: &Teller<'_>, fabric: &Fabric) -> anyhow::Result<()> {
    let database = fabric.host("mysql")?;
    mysql::install(&database)?;
    let _server = mysql::start_new(&database)?;
    let program = |host: &str, command: &str| fabric.host(host)?.start("bookinfo", command, &[]);
    let _running = [
        program(
            "productpage",
            "env DETAILS_HOSTNAME=10.1.0.12 REVIEWS_HOSTNAME=10.1.0.21 bookinfo productpage --cluster east",
        )?,
        program("details", "bookinfo details --cluster east")?,
        program(
            "reviews",
            "env SERVICE_VERSION=v3 RATINGS_HOSTNAME=10.1.0.22 bookinfo reviews --cluster east",
        )?,
        program(
            "ratings-v2",
            "env SERVICE_VERSION=v2-mysql-vm MYSQL_DB_HOST=10.1.0.20 MYSQL_DB_PASSWORD=password \
             bookinfo ratings --cluster east",
        )?,
    ];
    let page = fabric.host("productpage")?;
    let reviews = "curl -s http://127.0.0.1:9080/api/v1/products/0/reviews";
    let html = "curl -s http://127.0.0.1:9080/productpage";
    teller.within(
        WITHIN,
        "the page has the database's stars",
        &page,
        html,
        says("title=\"5 of 5 stars\""),
    )?;
    teller.check("and names who answered", &page, html, says("<td>ratings</td><td>v2-mysql-vm</td>"))?;
    let update = mysql::query("UPDATE ratings SET Rating=1 WHERE ReviewID=1");
    teller.act("a row changes", &database, &update)?;
    teller.check("and so does the page", &page, reviews, says("\"stars\":1"))?;
    Ok(())
}
