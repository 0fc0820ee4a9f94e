//! Step 6: all of east's reviews die, hang, and are cut off, while requests run; leaves rotate meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::check::{Teller, Verdict, shown};
use super::load::{self, Load, REQUEST, Tally};
use super::mesh::{AGENT_DATA, Mesh};
use crate::host::Host;

/// Before the break, so that there is something to break.
const BEFORE: Duration = Duration::from_millis(500);
const MOVES_WITHIN: Duration = Duration::from_secs(8);
const RETURNS_WITHIN: Duration = Duration::from_secs(12);
const ROTATED_WITHIN: Duration = Duration::from_secs(25);

/// What is done to the host of east's reviews, and undone.
struct Break {
    what: &'static str,
    command: &'static str,
    undo: Undo,
}

enum Undo {
    Command(&'static str),
    StartAgain,
}

const BREAKS: [Break; 3] = [
    Break { what: "all of east's reviews are killed", command: "kill -KILL -1", undo: Undo::StartAgain },
    Break { what: "they hang (SIGSTOP)", command: "kill -STOP -1", undo: Undo::Command("kill -CONT -1") },
    Break {
        what: "they are cut off, every packet dropped",
        command: "nft 'add table ip cut; add chain ip cut in { type filter hook input priority -300; policy drop; }'",
        undo: Undo::Command("nft delete table ip cut"),
    },
];

pub(super) fn run(teller: &Teller<'_>, mesh: &Mesh<'_>) -> anyhow::Result<()> {
    let serials = serials(mesh)?;
    for break_ in &BREAKS {
        fail_over(teller, mesh, break_)?;
    }
    leaves_rotated(teller, mesh, &serials)
}

fn fail_over(teller: &Teller<'_>, mesh: &Mesh<'_>, break_: &Break) -> anyhow::Result<()> {
    let (page, reviews) = (mesh.host("productpage")?, mesh.host("reviews-v2")?);
    let began = Instant::now();
    let load = Load::start(&page)?;
    std::thread::sleep(BEFORE);
    // The shell that kills everyone may be hit itself: its end says nothing.
    let done = reviews.run(break_.command);
    let moved = answered_by(&page, "v3", MOVES_WITHIN);
    let undone = match break_.undo {
        Undo::Command(command) => reviews.run(command).map(|_| ()),
        Undo::StartAgain => mesh.start_workload(teller, "reviews-v2"),
    };
    let back = answered_by(&page, "v2", RETURNS_WITHIN);
    let tally = load.finish()?;
    done?;
    undone?;
    let verdict = verdict(&tally, moved?, back?);
    let undo = match break_.undo {
        Undo::Command(command) => vec![shown(&reviews, command)],
        Undo::StartAgain => Vec::new(),
    };
    let mut commands = vec![shown(&page, REQUEST), shown(&reviews, break_.command)];
    commands.extend(undo);
    teller.note(break_.what, &commands, began.elapsed(), verdict, vec![page, reviews])
}

/// When a version answers, if it does in time.
fn answered_by(page: &Arc<Host>, version: &str, limit: Duration) -> anyhow::Result<Option<Duration>> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if load::version(&page.run(REQUEST)?.stdout) == version {
            return Ok(Some(began.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

fn verdict(tally: &Tally, moved: Option<Duration>, back: Option<Duration>) -> Verdict {
    let why = |text: &str| {
        let example = tally.example.as_deref().unwrap_or("none failed");
        Err(format!("{text}; {}; a failed one: {example}", tally.line()))
    };
    let Some(moved) = moved else { return why("traffic does not move to west") };
    let Some(back) = back else { return why("traffic does not come back to east") };
    // Those that were on their way when it broke may fail, for what was sent cannot be sent again; no other does.
    if tally.failed > load::WORKERS {
        return why("requests failed that began after the break");
    }
    Ok(format!(
        "west answers after {:.1} s, east again {:.1} s after its return; {}",
        moved.as_secs_f64(),
        back.as_secs_f64(),
        tally.line()
    ))
}

const SERIAL: &str = "openssl x509 -noout -serial -in";

fn serial_command() -> String {
    format!("{SERIAL} {AGENT_DATA}/identity/cert-chain.pem")
}

fn rotating(mesh: &Mesh<'_>) -> anyhow::Result<Vec<Arc<Host>>> {
    ["productpage", "ratings", "reviews-v3"].into_iter().map(|host| mesh.host(host)).collect()
}

fn serials(mesh: &Mesh<'_>) -> anyhow::Result<Vec<String>> {
    rotating(mesh)?.iter().map(|host| host.must(&serial_command())).collect()
}

fn leaves_rotated(teller: &Teller<'_>, mesh: &Mesh<'_>, before: &[String]) -> anyhow::Result<()> {
    for (host, before) in rotating(mesh)?.iter().zip(before) {
        let what = format!("{}'s leaf is another one than before", host.name());
        teller.within(ROTATED_WITHIN, &what, host, &serial_command(), |output| {
            let now = output.stdout.trim();
            if now == before { Err(format!("it is still {now}")) } else { Ok(format!("{before} → {now}")) }
        })?;
    }
    Ok(())
}
