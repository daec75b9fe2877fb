//! How far a download or an import has come, from the lines of its log.
//!
//! Both are estimates: PVE shows a line per 32 MiB and none below that until the end, and an import
//! is silent for half a minute at a time. They never go back while a log grows, also where wget
//! starts again from the first byte.

/// What a dot stands for; a line has 32 (wget, `--progress=dot:giga`, pve-common:
/// `src/PVE/Tools.pm:1536`).
const DOT: u64 = 1 << 20;

/// Bytes that a `download` task has fetched, at most `total_bytes`; `None` before its log says
/// anything of them.
///
/// A dropped connection keeps what was there (`Connection closed at byte …`), and the bytes that
/// a resumed one skips are shown as `,` or `[ skipping …K ]`. All are read as places in the file.
pub fn download_progress<L: AsRef<str>>(lines: &[L], total_bytes: u64) -> Option<u64> {
    let seen = lines.iter().filter_map(|line| fetched(line.as_ref(), total_bytes)).max();
    seen.map(|bytes| bytes.min(total_bytes))
}

fn fetched(line: &str, total_bytes: u64) -> Option<u64> {
    if let Some((_, place)) = line.split_once("Connection closed at byte ") {
        return leading_number(place).map(|(bytes, _)| bytes);
    }
    if let Some((_, skipped)) = line.split_once("[ skipping ") {
        let (kib, rest) = leading_number(skipped)?;
        return rest.starts_with('K').then(|| kib.saturating_mul(1024));
    }
    let whole = line.ends_with("got correct file already, no need to download")
        || line.starts_with("calculating checksum...")
        || (line.contains(" saved [") && line.ends_with(']'));
    if whole {
        return Some(total_bytes);
    }
    let (kib, rest) = leading_number(line.trim_start())?;
    let dots = rest.strip_prefix("K ")?;
    let after = dots.trim_start_matches([' ', '.', ',']);
    let count = dots[..dots.len() - after.len()].bytes().filter(|byte| *byte != b' ').count();
    if after.starts_with("100%") {
        return Some(total_bytes);
    }
    Some(kib.saturating_mul(1024).saturating_add((count as u64).saturating_mul(DOT)))
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// Bytes of virtual disk that were copied, and all of them: of `qmconfig`, `qmcreate`, `qmclone` and
/// `qmmove` tasks. `None` before the first `transferred … of … (…%)`.
///
/// Where one task copies several disks, one after the other, what is done adds up, and so does the
/// whole as each begins.
pub fn import_progress<L: AsRef<str>>(lines: &[L]) -> Option<(u64, u64)> {
    let mut disks: Option<Copied> = None;
    for (done, total) in lines.iter().filter_map(|line| transferred(line.as_ref())) {
        let so_far = disks.get_or_insert(Copied { before: 0, done: 0, total });
        if done == 0 && so_far.done > 0 {
            so_far.before = so_far.before.saturating_add(so_far.total);
            (so_far.done, so_far.total) = (0, total);
        }
        so_far.total = so_far.total.max(total);
        so_far.done = so_far.done.max(done).min(so_far.total);
    }
    disks.map(|it| (it.before.saturating_add(it.done), it.before.saturating_add(it.total)))
}

struct Copied {
    /// Of the disks before this one.
    before: u64,
    done: u64,
    total: u64,
}

/// The share is more exact than the amount, which has one digit after the point (qemu-server:
/// `src/PVE/QemuServer/QemuImage.pm:189`).
fn transferred(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once("transferred ")?;
    let (_, rest) = rest.split_once(" of ")?;
    let (total, rest) = rest.split_once(" (")?;
    let (share, _) = rest.split_once("%)")?;
    let (amount, unit) = total.split_once(' ')?;
    let unit: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "PiB" => 1 << 50,
        _ => return None,
    };
    let total = hundredths(amount)?.checked_mul(unit)? / 100;
    let share = hundredths(share)?.min(10_000);
    let done = u128::from(total) * u128::from(share) / 10_000;
    Some((u64::try_from(done).ok()?, total))
}

/// `12.8` as 1280. More digits after the point are cut.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let cents = fraction.bytes().chain(*b"00").take(2);
    let cents = cents.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(cents)
}
