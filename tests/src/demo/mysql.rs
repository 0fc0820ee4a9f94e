//! A real MySQL server (mariadbd) with Bookinfo's table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::host::{Host, Process};

const DATA: &str = "/var/lib/mysql";
/// Where clients look by themselves.
const SOCKET: &str = "/run/mysqld/mysqld.sock";

const TABLE: &str = "CREATE DATABASE test;
USE test;
CREATE TABLE ratings (ReviewID INT NOT NULL, Rating INT, PRIMARY KEY (ReviewID));
INSERT INTO ratings (ReviewID, Rating) VALUES (1, 5), (2, 4);
CREATE USER 'root'@'%' IDENTIFIED BY 'password';
GRANT ALL PRIVILEGES ON *.* TO 'root'@'%' WITH GRANT OPTION;
";

/// Installs the server's own tables and Bookinfo's.
pub(super) fn install(host: &Arc<Host>) -> anyhow::Result<()> {
    let install = format!(
        "mkdir -p /run/mysqld && mariadb-install-db --no-defaults --user=root --datadir={DATA} --auth-root-authentication-method=normal \
         --skip-test-db --skip-name-resolve > /var/log/isthmus/mariadb-install.log 2>&1"
    );
    let output = host.run_within(Duration::from_secs(60), &install, "")?;
    if !output.is_success() {
        bail!(
            "{}: mariadb-install-db: {}\n{}",
            host.name(),
            output.ending(),
            host.log_tail("mariadb-install", 20)
        );
    }
    host.write("/run/bookinfo.sql", TABLE)
}

/// Starts the server and waits until it answers.
pub(super) fn start(host: &Arc<Host>) -> anyhow::Result<Process> {
    let server = host.start("mariadbd", command(), &[])?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if host.run(&format!("mysql --no-defaults --socket={SOCKET} -e 'SELECT 1'"))?.is_success() {
            return Ok(server);
        }
        if let Some(status) = server.ended_within(Duration::from_millis(50)) {
            bail!("{}: mariadbd ended, {status}\n{}", host.name(), host.log_tail("mariadbd", 20));
        }
        if Instant::now() > deadline {
            bail!("{}: mariadbd does not answer\n{}", host.name(), host.log_tail("mariadbd", 20));
        }
    }
}

/// Starts the server for the first time and fills its table.
pub(super) fn start_new(host: &Arc<Host>) -> anyhow::Result<Process> {
    let server = start(host)?;
    host.must(&format!("mysql --no-defaults --socket={SOCKET} < /run/bookinfo.sql"))?;
    Ok(server)
}

/// How the server is started.
pub(super) fn command() -> &'static str {
    "mariadbd --no-defaults --user=root --datadir=/var/lib/mysql --socket=/run/mysqld/mysqld.sock \
     --pid-file=/run/mysqld/mysqld.pid --bind-address=0.0.0.0 --port=3306 --skip-name-resolve \
     --innodb-flush-log-at-trx-commit=2"
}

/// A command for the VM's own shell.
pub(super) fn query(sql: &str) -> String {
    format!("mysql test -Ne \"{sql}\"")
}
