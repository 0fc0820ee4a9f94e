//! Bookinfo's services in one small program that knows nothing of the mesh: productpage, details, reviews and
//! ratings, with the paths, JSON and environment of the original sample. Each answer says who gave it.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod client;
mod details;
mod origin;
mod productpage;
mod ratings;
mod reviews;
mod server;

#[derive(Debug, Parser)]
#[command(name = "bookinfo", version, about = "One service of the Bookinfo sample", propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    service: Service,
    #[command(flatten)]
    common: Common,
}

/// What every service takes.
#[derive(Debug, Clone, Args)]
struct Common {
    /// Port to serve HTTP on, on every address
    #[arg(long, env = "PORT", default_value_t = 9080, global = true)]
    port: u16,
    /// Version of this service, named in its answers
    #[arg(long, env = "SERVICE_VERSION", default_value = "v1", global = true)]
    service_version: String,
    /// Cluster named in its answers
    #[arg(long, env = "CLUSTER_NAME", default_value = "", global = true)]
    cluster: String,
    /// Workload named in its answers; the host's name when absent
    #[arg(long, env = "WORKLOAD_NAME", global = true)]
    workload: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// The page that joins the others
    Productpage(productpage::Config),
    /// Facts about a book
    Details,
    /// Two reviews of a book; v2 and v3 add stars
    Reviews(reviews::Config),
    /// The reviewers' stars; v2 reads them from a database
    Ratings(ratings::Config),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("bookinfo: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bookinfo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let origin = origin::Origin::new(&cli.common);
    let port = cli.common.port;
    match cli.service {
        Service::Productpage(config) => {
            server::serve(port, productpage::Productpage::new(config, origin)).await
        }
        Service::Details => server::serve(port, details::Details::new(origin)).await,
        Service::Reviews(config) => server::serve(port, reviews::Reviews::new(config, origin)).await,
        Service::Ratings(config) => server::serve(port, ratings::Ratings::new(config, origin)?).await,
    }
}
