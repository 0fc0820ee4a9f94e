//! One run, phase by phase.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use isthmus_ca::{Intermediate, Root};
use isthmus_model::{ClusterId, TrustDomain};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::api::Api;
use super::clock::{Ticks, system_time};
use super::kubernetes::{Kubernetes, admin_of};
use super::options::{ApiKind, Options};
use super::processes::{Running, free_address};
use super::report::{Cost, Meter, Phase, Report};
use super::simulated::Simulated;
use super::simulator::Settings;
use super::stored;
use super::world::{self, Shape};

/// A whole run.
///
/// # Errors
/// When a process does not start or does not do what it should.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    options.check()?;
    let folder = tempfile::Builder::new().prefix("bench-xds-").tempdir()?;
    let folder = if options.keep { folder.keep() } else { folder.path().to_path_buf() };
    let shape = Shape {
        services: options.services,
        endpoints: options.endpoints,
        namespaces: options.namespaces,
        selectors: options.api == ApiKind::Kubernetes,
    };
    let ca = folder.join("cacerts");
    let root = Root::create(&TrustDomain::new("cluster.local")?, Duration::from_secs(86_400), system_time())?;
    root.0.intermediate(&Intermediate::new(ClusterId::new("bench")?), system_time())?.write(&ca)?;
    let say = |text: &str| {
        if !options.quiet {
            eprintln!("{text}");
        }
    };
    let mut plane = Plane { folder: folder.clone(), ca: ca.clone(), program: options.primary()? };
    let mut kubernetes = None;
    let (mut primary, api, address) = match options.api {
        ApiKind::Kubernetes => {
            let total = stored::count(shape);
            say(&format!("starting etcd with {total} objects, and kube-apiserver"));
            let progress = |done| say(&format!("  {done} of {total} objects are in etcd"));
            let cluster = Kubernetes::start(&options.kube_bin(), &folder, shape, progress).await?;
            say("starting isthmus-primary");
            let source = vec![format!("--kubeconfig={}", cluster.kubeconfig.display())];
            let (primary, address) = plane.start(source).await?;
            let api = cluster.api.clone();
            kubernetes = Some(cluster);
            (primary, api, address)
        }
        ApiKind::Standalone => {
            say("starting isthmus-primary to load it");
            let (mut first, api, _) = plane.standalone().await?;
            load(&api, shape, options.quiet).await?;
            first.stop();
            plane.standalone().await?
        }
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let meter = Meter::new(primary.pid());
    let mut report = Report::new(options);
    report.phases.push(Phase::new("ready, no proxy", meter.since_start()?));
    say(&report.last_line());

    let settings = Settings {
        address,
        ca,
        services: options.services,
        endpoints: options.endpoints,
        namespaces: options.namespaces,
        proxies: options.proxies,
        sotw: options.sotw,
        base: Ticks::start().base,
    };
    let mut proxies = Simulated::start(&settings, &folder.join("proxies.log")).await?;
    let mut run = Measured { options, shape, meter, api, ticks: Ticks { base: settings.base } };
    for (name, anew) in [("from nothing to complete", false), ("all reconnect at once", true)] {
        if anew {
            for phase in run.changes(&mut proxies).await? {
                report.phases.push(phase);
                say(&report.last_line());
            }
        }
        run.meter.forget_peak()?;
        let mark = run.meter.mark()?;
        let connected = if anew { proxies.again().await? } else { proxies.connect().await? };
        let mut phase = Phase::new(name, run.meter.cost(&mark)?);
        phase.connected(&connected, options.proxies);
        report.phases.push(phase);
        say(&report.last_line());
        if let Some(problem) = connected.problem {
            say(&format!("  {} connections failed, such as: {problem}", connected.failures));
        }
        primary.check()?;
        tokio::time::sleep(Duration::from_secs(options.settle)).await;
        report.phases.push(Phase::new("settled", Cost { seconds: 0.0, ..run.meter.now()? }));
        say(&report.last_line());
        if let Some(command) = &options.after {
            let command = format!("{command} {}", primary.pid());
            say(&format!("waiting for: {command}"));
            after(&command).await?;
        }
    }
    drop(proxies);
    primary.stop();
    drop(kubernetes);
    Ok(report)
}

/// How a control plane is started.
struct Plane {
    folder: PathBuf,
    ca: PathBuf,
    program: PathBuf,
}

impl Plane {
    async fn start(&mut self, source: Vec<String>) -> anyhow::Result<(Running, std::net::SocketAddr)> {
        let (grpc, monitoring) = (free_address()?, free_address()?);
        let mut arguments = source;
        arguments.extend([
            "--cluster=bench".to_string(),
            format!("--data-dir={}", self.folder.join("primary").display()),
            format!("--cacerts={}", self.ca.display()),
            "--advertise=127.0.0.1".to_string(),
            format!("--grpc-address={grpc}"),
            format!("--monitoring-address={monitoring}"),
        ]);
        let mut running = Running::start(&self.program, "isthmus-primary", &arguments, &self.folder)?;
        running.until(Duration::from_secs(180), async || ready(monitoring).await).await?;
        Ok((running, grpc))
    }

    async fn standalone(&mut self) -> anyhow::Result<(Running, Api, std::net::SocketAddr)> {
        let api = free_address()?;
        let source = vec!["--standalone".to_string(), format!("--api-address={api}")];
        let (running, grpc) = self.start(source).await?;
        let admin = admin_of(&self.folder.join("primary/admin.kubeconfig"))?;
        Ok((running, Api::new(api, &admin)?, grpc))
    }
}

/// Whether a control plane says that it is ready.
async fn ready(monitoring: std::net::SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let Ok(mut stream) = tokio::net::TcpStream::connect(monitoring).await else { return false };
    let request = b"GET /ready HTTP/1.0\r\nhost: bench\r\n\r\n";
    let mut answer = [0; 32];
    stream.write_all(request).await.is_ok()
        && stream.read(&mut answer).await.is_ok()
        && answer.windows(5).any(|window| window == b" 200 ")
}

/// Runs a command of the shell; it and what it has started end with the run.
async fn after(command: &str) -> anyhow::Result<()> {
    struct Group(Option<i32>);
    impl Drop for Group {
        fn drop(&mut self) {
            if let Some(pid) = self.0 {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
    }
    let mut child = tokio::process::Command::new("sh").args(["-c", command]).process_group(0).spawn()?;
    let mut group = Group(child.id().and_then(|pid| pid.try_into().ok()));
    child.wait().await?;
    // Its number may be another's from now on.
    group.0 = None;
    Ok(())
}

async fn load(api: &Api, shape: Shape, quiet: bool) -> anyhow::Result<()> {
    let progress = |done, total| {
        if !quiet {
            eprintln!("  loading: {done} of {total} objects");
        }
    };
    api.load(world::foundations(shape), progress).await?;
    let all = (0..shape.services).flat_map(|service| world::service(shape, service)).collect();
    api.load(all, progress).await
}

struct Measured<'a> {
    options: &'a Options,
    shape: Shape,
    meter: Meter,
    api: Api,
    ticks: Ticks,
}

impl Measured<'_> {
    /// Changes one by one, then many.
    async fn changes(&mut self, proxies: &mut Simulated) -> anyhow::Result<Vec<Phase>> {
        let mut connection = self.api.connect().await?;
        let rounds = self.options.changes;
        let mut phases = Vec::new();
        // The first one pays for what others share.
        for (name, rounds) in [("first change", 1), ("one endpoint's change", rounds)] {
            self.meter.forget_peak()?;
            let mark = self.meter.mark()?;
            for round in 0..rounds {
                let service = (round * 7) % self.shape.services;
                let at = self.ticks.now();
                proxies.about_to_write(service, at).await?;
                let object = world::slice(self.shape, service, Some(at));
                connection.check(Method::PUT, &world::slice_path(self.shape, service), &object).await?;
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            let settled = proxies.settle(5000).await?;
            // What comes after, such as acknowledgements and freed memory, is part of it.
            tokio::time::sleep(Duration::from_millis(400)).await;
            let mut phase = Phase::new(name, self.meter.cost(&mark)?.shared_by(rounds));
            phase.settled(&settled, self.options.proxies);
            phases.push(phase);
        }
        if self.options.rate > 0 && self.options.seconds > 0 {
            phases.push(self.storm(proxies).await?);
        }
        Ok(phases)
    }

    /// So many changes a second over some services.
    async fn storm(&mut self, proxies: &mut Simulated) -> anyhow::Result<Phase> {
        let among = self.options.among.min(self.shape.services);
        // One for each service of ten: writes of one service stay in order.
        let writers = 10;
        let mut senders = Vec::new();
        let mut workers = JoinSet::new();
        let (told, mut tell) = mpsc::unbounded_channel::<(u32, u32, oneshot::Sender<()>)>();
        for _ in 0..writers {
            let (sender, mut receiver) = mpsc::unbounded_channel::<u32>();
            let mut connection = self.api.connect().await?;
            let (shape, ticks, told) = (self.shape, self.ticks, told.clone());
            workers.spawn(async move {
                while let Some(service) = receiver.recv().await {
                    // The proxies are told first, so that none of them is surprised.
                    let (done, known) = oneshot::channel();
                    let at = ticks.now();
                    told.send((service, at, done))?;
                    known.await?;
                    let object = world::slice(shape, service, Some(at));
                    connection.check(Method::PUT, &world::slice_path(shape, service), &object).await?;
                }
                anyhow::Ok(())
            });
            senders.push(sender);
        }
        drop(told);
        self.meter.forget_peak()?;
        let mark = self.meter.mark()?;
        let began = Instant::now();
        let rate = self.options.rate;
        let (among, seconds) = (among, self.options.seconds);
        let pace = async move {
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            let mut sent = 0u32;
            while began.elapsed() < Duration::from_secs(seconds) {
                tick.tick().await;
                let due = began.elapsed().as_millis() * u128::from(rate) / 1000;
                while u128::from(sent) < due {
                    let service = sent % among;
                    // A writer that has ended says why below.
                    let _ = senders[(service % writers) as usize].send(service);
                    sent += 1;
                }
            }
            sent
        };
        let tells = async {
            while let Some((service, at, done)) = tell.recv().await {
                proxies.about_to_write(service, at).await?;
                let _ = done.send(());
            }
            anyhow::Ok(())
        };
        let (sent, told) = tokio::join!(pace, tells);
        told?;
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        let wrote = began.elapsed();
        let settled = proxies.settle(30_000).await?;
        let name = format!("{rate} changes/s over {among} services for {} s", self.options.seconds);
        let mut phase = Phase::new(&name, self.meter.cost(&mark)?);
        phase.settled(&settled, self.options.proxies);
        phase.note = Some(format!("{sent} writes in {:.1} s", wrote.as_secs_f64()));
        Ok(phase)
    }
}
