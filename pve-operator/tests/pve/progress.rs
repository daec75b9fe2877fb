//! How far a task has come, read from logs of a real PVE 9.2.

use std::sync::LazyLock;

use proptest::prelude::*;
use pve_operator::pve::{download_progress, import_progress};

use crate::recorded::log_lines;

const MIB: u64 = 1 << 20;

/// The file that most recordings fetch.
const X: u64 = 42_270_720;

/// What each line newly brought, in the order of the log.
fn steps(lines: &[String], progress: impl Fn(&[String]) -> Option<u64>) -> Vec<u64> {
    let mut steps: Vec<_> = (1..=lines.len()).filter_map(|end| progress(&lines[..end])).collect();
    steps.dedup();
    steps
}

/// B20
#[test]
fn a_download_shows_a_step_per_32_mib_and_one_at_the_end() {
    for (name, total, expected) in [
        ("1310_d_tiny_task_log.json", 4_521_984, vec![4_521_984]),
        ("1316_d_nolen_task_log.json", X, vec![32 * MIB, 40 * MIB, X]),
        // Dropped at byte 10000000, then resumed, then from the first byte again.
        ("1347_d_drop_task_log.json", X, vec![9 * MIB, 10_000_000, 32 * MIB, X]),
        ("1350_d_drop_norange_task_log.json", X, vec![9 * MIB, 10_000_000, 32 * MIB, X]),
        // There already: nothing was fetched.
        ("786_glocal_download_again_final_log.json", 377_946_112, vec![377_946_112]),
        ("1331_d_http503_task_log.json", X, vec![]),
    ] {
        let found = steps(&log_lines(name), |lines| download_progress(lines, total));

        assert_eq!(found, expected, "{name}");
    }
}

/// B06, B20: above 96 MiB the place in the file reaches the first column.
#[test]
fn a_file_of_360_mib_shows_twelve_steps() {
    let total = 377_946_112;

    let found = steps(&log_lines("777_glocal_download_final_log.json"), |lines| {
        download_progress(lines, total)
    });

    let full = (1..=11).map(|row| row * 32 * MIB);
    assert_eq!(found, full.chain([total]).collect::<Vec<_>>());
}

#[test]
fn what_wget_skips_is_there() {
    let lines = ["        [ skipping 98304K ]", " 98304K ,,,,,,,, ,...  "];

    assert_eq!(download_progress(&lines[..1], u64::MAX), Some(96 * MIB));
    assert_eq!(download_progress(&lines, u64::MAX), Some(96 * MIB + 12 * MIB));
    assert_eq!(download_progress(&lines, 97 * MIB), Some(97 * MIB), "never more than the file");
}

/// B06, B20
#[test]
fn an_import_tells_the_share_of_the_virtual_disk() {
    let lines = log_lines("849_glocal_import_final_log.json");

    let found = steps(&lines, |lines| import_progress(lines).map(|(done, _)| done));

    assert!(found.len() > 80, "{} steps", found.len());
    assert_eq!((found.first(), found.last()), (Some(&0), Some(&(2 << 30))));
    assert_eq!(import_progress(&lines), Some((2 << 30, 2 << 30)));
    assert_eq!(import_progress(&["create full clone of drive scsi0"]), None);
    let one = ["transferred 1.5 GiB of 10.0 GiB (15.02%)"];
    assert_eq!(import_progress(&one), Some(((10 << 30) * 1502 / 10_000, 10 << 30)));
}

#[test]
fn several_disks_add_up() {
    let lines = [
        "transferred 0.0 B of 528.0 KiB (0.00%)",
        "transferred 528.0 KiB of 528.0 KiB (100.00%)",
        "transferred 0.0 B of 2.0 GiB (0.00%)",
        "transferred 1.0 GiB of 2.0 GiB (50.00%)",
    ];

    assert_eq!(import_progress(&lines[..2]), Some((528 << 10, 528 << 10)));
    assert_eq!(import_progress(&lines), Some(((528 << 10) + (1 << 30), (528 << 10) + (2 << 30))));
}

/// B20: a log of 2,000 lines.
#[test]
fn a_download_of_64_gib_is_followed_to_its_end() {
    let rows = 2000_u64;
    let lines: Vec<_> = (0..rows)
        .map(|row| {
            format!("{:6}K ........ ........ ........ ........ {}% 64.0M 5s", row * 32768, row / 20)
        })
        .collect();

    let found = steps(&lines, |lines| download_progress(lines, rows * 32 * MIB));

    assert_eq!(found, (1..=rows).map(|row| row * 32 * MIB).collect::<Vec<_>>());
}

/// Lines as they are, cut off, or made up of their parts.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ ]{0,5}[0-9]{1,22}K[ .,]{0,40}[ ]{0,3}([0-9]{1,4}%)? ?[0-9.]{0,5}M?(=?[0-9.]{0,4}s)?",
        "[ ]{0,9}\\[ skipping [0-9]{0,22}K? ?\\]?",
        "(drive-scsi0: )?transferred [0-9.]{0,25} [KMGTPE]?i?B of [0-9.]{0,25} [KMGTPE]?i?B \\([0-9.]{0,25}%?\\)?",
        ".{0,9}Connection closed at byte [0-9]{0,22}\\. Retrying\\.",
    ]
}

/// Real logs as one text each.
static LOGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let names = [
        "777_glocal_download_final_log.json",
        "1347_d_drop_task_log.json",
        "1350_d_drop_norange_task_log.json",
        "849_glocal_import_final_log.json",
        "1704_n_import_ended_noquorum_task_log.json",
    ];
    names.iter().map(|name| log_lines(name).join("\n")).collect()
});

proptest! {
    /// B20: whatever a log holds, and wherever it is cut, progress is within the file and never
    /// goes back.
    #[test]
    fn progress_never_goes_back(
        lines in prop::collection::vec(line(), 0..12),
        total in any::<u64>(),
    ) {
        let (mut fetched, mut copied) = (0, 0);
        for end in 0..=lines.len() {
            let now = download_progress(&lines[..end], total).unwrap_or(0);
            prop_assert!(fetched <= now && now <= total);
            fetched = now;
            if let Some((done, all)) = import_progress(&lines[..end]) {
                prop_assert!(copied <= done && done <= all, "{copied} {done} {all}");
                copied = done;
            }
        }
    }

    /// B20: the same for a real log that is polled while its last line is still being written.
    #[test]
    fn a_real_log_that_grows_by_the_byte_never_goes_back(
        log in 0..LOGS.len(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let text = &LOGS[log];
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        cuts.sort_unstable();
        let (mut fetched, mut copied) = (0, 0);
        for cut in cuts {
            let lines: Vec<_> = text[..cut].lines().collect();
            let now = download_progress(&lines, 377_946_112).unwrap_or(0);
            prop_assert!(fetched <= now);
            let (done, all) = import_progress(&lines).unwrap_or((0, u64::MAX));
            prop_assert!(copied <= done && done <= all);
            (fetched, copied) = (now, done);
        }
    }
}
