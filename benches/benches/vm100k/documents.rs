//! The documents of workload `vm100k/v1`: the same bytes in every language it was measured in.

/// How many machines there are.
pub(crate) const MACHINES: u64 = 100_000;

/// How often all of them change.
pub(crate) const ROUNDS: u64 = 10;

/// The generation that everything is at after all rounds.
pub(crate) const LAST: u64 = ROUNDS + 1;

/// Machine `i` in generation `g`, as JSON.
pub(crate) fn document(i: u64, g: u64) -> String {
    let kind = if i.is_multiple_of(5) { "lxc" } else { "qemu" };
    let status = if i.is_multiple_of(7) { "stopped" } else { "running" };
    let h = mix(i.wrapping_mul(1_000_003).wrapping_add(g));
    let digest_end = mix(h ^ 1) & 0xFFFF_FFFF;
    let node = node(i);
    [
        r#"{"apiVersion":"bench.example/v1","kind":"Vm","metadata":{"#.to_owned(),
        format!(r#""name":"{}","namespace":"{node}","resourceVersion":"{g}","#, name(i)),
        format!(r#""uid":"{:016x}-{:016x}"}},"#, mix(i), mix(i + MACHINES)),
        format!(r#""spec":{{"vmid":{},"node":"{node}","type":"{kind}","#, 100 + i),
        format!(r#""status":"{status}","pool":"pool-{:02}","#, i % 20),
        format!(r#""tags":"prod;web;tier-{};team-{}","#, i % 4, i % 16),
        format!(r#""cpu":0.{:03},"maxcpu":{},"#, 100 + h % 900, 1 + i % 16),
        format!(r#""mem":{},"maxmem":4294967296,"#, 1_073_741_824 + h % 268_435_456),
        format!(r#""disk":{},"maxdisk":34359738368,"#, (h >> 20) % 34_359_738_368),
        format!(r#""netin":{},"netout":{},"#, i * 1000 + g * 4096, i * 900 + g * 2048),
        format!(r#""diskread":{},"diskwrite":{},"#, i * 800 + g * 1024, i * 700 + g * 512),
        format!(r#""uptime":{},"template":false,"lock":"","hastate":"started","#, i * 10 + g),
        format!(r#""pid":{},"qmpstatus":"{status}","#, 1000 + i),
        r#""running_machine":"pc-q35-9.2+pve1","#.to_owned(),
        format!(r#""description":"managed by terraform, owner team-{}, "#, i % 16),
        format!(r#"ticket OPS-{i:06}","digest":"{h:016x}{:016x}{digest_end:08x}"}}}}"#, mix(h)),
    ]
    .concat()
}

/// The machine that event `j` of round `r` touches: a permutation in each round.
pub(crate) fn touched(r: u64, j: u64) -> u64 {
    (j * 7919 + r * 13) % MACHINES
}

/// The generation of machine `i` in the `k`-th list after the rounds, which moves one in a hundred.
pub(crate) fn relisted(i: u64, k: u64) -> u64 {
    if i % 100 == 99 { LAST + 1 + k } else { LAST }
}

/// How many machines a [relist](relisted) moves.
pub(crate) const RELIST_CHANGES: u64 = MACHINES / 100;

pub(crate) fn name(i: u64) -> String {
    format!("vm-{i:06}")
}

pub(crate) fn node(i: u64) -> String {
    format!("pve-node-{:02}", i % 32)
}

/// The finaliser of splitmix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Whether this is still the workload that the published figures are about.
///
/// # Panics
///
/// If it is not.
pub(crate) fn check() {
    let example = document(12345, 3);
    assert_eq!(example.len(), 722, "the workload has changed: {example}");
}
