//! The process of simulated proxies, from outside.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::processes::last_words;
use super::simulator::{Connected, Settings, Settled};

/// Runs until dropped.
pub struct Simulated {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Simulated {
    /// Starts this program anew as the proxies; done when they have their certificates.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(settings: &Settings, log: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("proxies")
            .arg(format!("--address={}", settings.address))
            .arg(format!("--ca={}", settings.ca.display()))
            .arg(format!("--services={}", settings.services))
            .arg(format!("--endpoints={}", settings.endpoints))
            .arg(format!("--namespaces={}", settings.namespaces))
            .arg(format!("--proxies={}", settings.proxies))
            .arg(format!("--sotw={}", settings.sotw))
            .arg(format!("--base={}", settings.base))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(log)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("the proxies' input")?;
        let output = BufReader::new(child.stdout.take().context("the proxies' output")?).lines();
        let mut simulated = Self { child, input, output, log: log.to_path_buf() };
        simulated.read::<serde_json::Value>().await?;
        Ok(simulated)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// All connect, at once; done when all have everything.
    ///
    /// # Errors
    /// When some do not.
    pub async fn connect(&mut self) -> anyhow::Result<Connected> {
        self.tell("connect").await?;
        self.read().await
    }

    /// All drop their connections and connect anew.
    ///
    /// # Errors
    /// When some do not.
    pub async fn again(&mut self) -> anyhow::Result<Connected> {
        self.tell("again").await?;
        self.read().await
    }

    /// A service is about to be written.
    ///
    /// # Errors
    /// When the proxies are gone.
    pub async fn about_to_write(&mut self, service: u32, mark: u32) -> anyhow::Result<()> {
        self.tell(&format!("w {service} {mark}")).await
    }

    /// Waits until no proxy is behind.
    ///
    /// # Errors
    /// When the proxies are gone.
    pub async fn settle(&mut self, milliseconds: u64) -> anyhow::Result<Settled> {
        self.tell(&format!("settle {milliseconds}")).await?;
        self.read().await
    }

    async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes()).await.with_context(|| gone(&self.log))
    }

    async fn read<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let line = self.output.next_line().await?.with_context(|| gone(&self.log))?;
        serde_json::from_str(&line).context(line)
    }
}

fn gone(log: &Path) -> String {
    format!("the simulated proxies ended early; {}", last_words(log))
}
