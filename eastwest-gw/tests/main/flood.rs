//! Strangers cannot make the process grow.

use isthmus_lifecycle::{Drain, TaskGroup};
use isthmus_testkit::MeshCa;

use crate::left::{SNI, left_behind};
use crate::running::{Process, echo, hello, say};

fn resident_kb(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[tokio::test]
async fn ten_thousand_unknown_names_cost_neither_memory_nor_descriptors() {
    let tasks = TaskGroup::new("world", Drain::new());
    let workload = echo(&tasks).await;
    let directory = tempfile::tempdir().unwrap();
    left_behind(directory.path(), &MeshCa::new(), workload).await;
    let gateway = Process::start(directory.path(), &[]).await;
    let template = hello("outbound_.9080_._.nobody-00000.default.svc.cluster.local");
    let at = template.windows(5).position(|window| window == b"00000").unwrap();
    let flood = async |range: std::ops::Range<usize>| {
        for n in range {
            let mut hello = template.clone();
            hello[at..at + 5].copy_from_slice(format!("{n:05}").as_bytes());
            let answer = say(gateway.gateway, &hello).await;
            assert!(!answer.is_ok_and(|answer| !answer.is_empty()));
        }
    };
    flood(0..1000).await;
    let (memory, open) = (resident_kb(gateway.id()), descriptors(gateway.id()));
    flood(1000..11_000).await;
    assert!(say(gateway.gateway, &hello(SNI)).await.unwrap().starts_with(b"west:"));
    let grown = resident_kb(gateway.id()).saturating_sub(memory);
    // 10,000 names of 60 bytes, remembered once, would be 600 KB in any table, and more in all of them.
    assert!(grown < 400, "{grown} KB more than {memory} KB");
    assert!(descriptors(gateway.id()) <= open + 4, "{} after {open}", descriptors(gateway.id()));
    gateway.kill().await;
    tasks.drain().immediate();
}
