//! `make bench-gateway`: our gateway and sidecars beside Envoy, HAProxy and nginx; see GATEWAY.md beside this package.

fn main() -> anyhow::Result<()> {
    isthmus_bench::gateway::main()
}
