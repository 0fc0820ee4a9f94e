//! README's chapter about a mesh without the demo, word for word: each block on the machine that its first line names,
//! and what it says must be carried is carried.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::check::Teller;
use super::tell;
use crate::fabric::Fabric;
use crate::host::Host;
use crate::topology::{self, Network, Plan};

const CHAPTER: &str = "### Without the demo";
const BLOCK_WITHIN: Duration = Duration::from_secs(60);

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    Run { on: String, script: String },
    Carry { file: String, from: String, to: String },
}

pub(super) fn run(fabric: &Fabric) -> anyhow::Result<ExitCode> {
    let page = std::path::Path::new(&fabric.opening().deploy).with_file_name("README.md");
    let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let deeds = deeds(&text)?;
    fabric.boot(hosts())?;
    Ok(tell(
        fabric,
        vec![("README: a mesh without the demo", Box::new(|teller| perform(teller, fabric, &deeds)))],
    ))
}

fn hosts() -> Vec<Plan> {
    use Network::{East, West};
    vec![
        Plan::offline("ca"),
        Plan::new("east-cp", East, 10, ""),
        Plan::gateway("east-gw", East),
        Plan::new("client", East, 11, topology::KUBERNETES_SEARCH),
        Plan::new("west-cp", West, 10, ""),
        Plan::gateway("west-gw", West),
        Plan::new("server", West, 11, topology::KUBERNETES_SEARCH),
    ]
}

/// What the chapter says, in its order.
fn deeds(text: &str) -> anyhow::Result<Vec<Deed>> {
    let chapter = text.split(CHAPTER).nth(1).with_context(|| format!("README has no chapter {CHAPTER:?}"))?;
    let chapter = chapter.split("\n## ").next().unwrap_or_default();
    let mut deeds = Vec::new();
    for (index, part) in chapter.split("```").enumerate() {
        if index % 2 == 1 {
            let (kind, block) = part.split_once('\n').unwrap_or_default();
            let (first, script) = block.split_once('\n').unwrap_or_default();
            let on = first.strip_prefix("# on ").filter(|_| kind == "sh");
            let on = on.with_context(|| format!("a block does not begin with `# on MACHINE`: {block}"))?;
            deeds.push(Deed::Run { on: on.trim().into(), script: script.into() });
            continue;
        }
        for (at, found) in part.match_indices("arry `") {
            let sentence = &part[at + found.len()..];
            let words: Vec<&str> = sentence.split('`').collect();
            let [file, " from ", from, " to ", to, ..] = words[..] else {
                bail!("not understood: carry `{}", sentence.lines().next().unwrap_or_default());
            };
            deeds.push(Deed::Carry { file: file.into(), from: from.into(), to: to.into() });
        }
    }
    Ok(deeds)
}

fn perform(teller: &Teller<'_>, fabric: &Fabric, deeds: &[Deed]) -> anyhow::Result<()> {
    // A terminal keeps what was exported in it.
    let mut exports: BTreeMap<&str, String> = BTreeMap::new();
    for deed in deeds {
        match deed {
            Deed::Carry { file, from, to } => carry(&fabric.host(from)?, &fabric.host(to)?, file)?,
            Deed::Run { on, script } => {
                let host = fabric.host(on)?;
                let exported = exports.entry(on).or_default();
                teller.act_within(BLOCK_WITHIN, on, &host, &format!("set -e\n{exported}{script}"))?;
                for line in script.lines().filter(|line| line.starts_with("export ")) {
                    exported.push_str(line);
                    exported.push('\n');
                }
            }
        }
    }
    Ok(())
}

fn carry(from: &Arc<Host>, to: &Arc<Host>, file: &str) -> anyhow::Result<()> {
    let packed = from.must(&format!("tar -c {file} | base64"))?;
    let output = to.run_within(BLOCK_WITHIN, "base64 -d | tar -x", &packed)?;
    anyhow::ensure!(output.is_success(), "{file} does not arrive on {}: {}", to.name(), output.stderr);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_sentences_are_read_in_order() {
        let text = "x\n### Without the demo\nMachines `a`.\n```sh\n# on ca\nmake it\n```\nCarry `f` from `ca` to `b`, and carry \
                    `g` from `b` to `ca`.\n\n## Next\nCarry `h` nowhere.\n";
        let carry = |file: &str, from: &str, to: &str| Deed::Carry {
            file: file.into(),
            from: from.into(),
            to: to.into(),
        };
        assert_eq!(
            deeds(text).unwrap(),
            [
                Deed::Run { on: "ca".into(), script: "make it\n".into() },
                carry("f", "ca", "b"),
                carry("g", "b", "ca")
            ]
        );
        assert!(deeds("### Without the demo\n```sh\nmake it\n```\n").is_err());
    }
}
