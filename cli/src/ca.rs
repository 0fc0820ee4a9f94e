//! `isthmus ca`.

use std::path::Path;
use std::time::SystemTime;

use isthmus_ca::{Intermediate, Root};
use isthmus_lifecycle::{Clock, SystemClock};

use crate::args::{CaCommand, CaIntermediateArgs, CaRootArgs};
use crate::output;

/// Runs one of them.
pub(crate) fn run(command: &CaCommand) -> anyhow::Result<()> {
    match command {
        CaCommand::Root(args) => root(args),
        CaCommand::Intermediate(args) => intermediate(args),
    }
}

fn root(args: &CaRootArgs) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let root = Root::create_in(&args.out, &args.trust_domain, args.lifetime, args.force, now)?;
    let out = args.out.display();
    output::print(&format!(
        "{out}/root-cert.pem  {}, trust domain {}, valid until {}\n{out}/root-key.pem   its private key\n",
        root.subject(),
        root.trust_domain(),
        day(root.not_after()),
    ))?;
    output::advise(&format!(
        "\nnext: sign a certificate authority for each cluster, then take {out} offline:\n  \
         isthmus ca intermediate --root {out} --cluster NAME --out NAME-ca"
    ));
    Ok(())
}

fn intermediate(args: &CaIntermediateArgs) -> anyhow::Result<()> {
    let root = Root::load(&args.root)?;
    let asked = Intermediate {
        cluster: args.cluster.clone(),
        lifetime: args.lifetime,
        constrained: !args.unconstrained,
        extra_dns: args.dns_names.clone(),
    };
    let now = SystemClock.now();
    root.intermediate_in(&args.out, &asked, args.force, now)?;
    let until = (now + args.lifetime).min(root.not_after());
    let out = args.out.display();
    output::print(&format!(
        "{out}/ca-cert.pem     signs for cluster {}, valid until {}\n{out}/ca-key.pem      its private key\n\
         {out}/root-cert.pem   what members of the mesh trust\n{out}/cert-chain.pem  what they are shown\n",
        args.cluster,
        day(until),
    ))?;
    output::advise(&format!("\nnext: {}", start_hint(&args.cluster, &args.out)));
    Ok(())
}

fn start_hint(cluster: &isthmus_model::ClusterId, out: &Path) -> String {
    let out = out.display();
    format!(
        "give this directory to the control plane of {cluster}:\n  \
         isthmus-primary --standalone --cluster {cluster} --network {cluster} --data-dir DIR --cacerts {out} --advertise IP"
    )
}

/// The day in UTC.
fn day(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map_or_else(|_| "?".to_string(), |stamp| stamp.strftime("%Y-%m-%d").to_string())
}
