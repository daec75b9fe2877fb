//! Sizes and storages as the command line writes them.

use crate::world::Storage;

/// Reads `50MiB`, `4GiB`, `100MB` or plain bytes.
///
/// # Errors
///
/// A sentence that says what can be written.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(format!("{text}: write bytes, or 50MiB, 4GiB, 100MB")),
    };
    let number: Option<u64> = digits.trim().parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| format!("{text}: write bytes, or 50MiB, 4GiB, 100MB"))
}

/// Reads `NAME=TYPE[,shared][,content=images+import][,nodes=pve1+pve2][,total=100GiB]`. Without
/// `content` it has what its type can have, with `import` on storages of files.
///
/// # Errors
///
/// A sentence that says what can be written.
pub fn parse_storage(text: &str) -> Result<Storage, String> {
    let usage = "write NAME=TYPE[,shared][,content=images+import][,nodes=pve1+pve2][,total=100GiB]";
    let mut parts = text.split(',');
    let (name, plugin) = parts
        .next()
        .and_then(|first| first.split_once('='))
        .filter(|(name, plugin)| !name.is_empty() && !plugin.is_empty())
        .ok_or_else(|| format!("{text}: {usage}"))?;
    let mut storage = Storage::new(name, plugin, &[]);
    let usual: &[&str] = if storage.has_files() {
        &["iso", "vztmpl", "backup", "snippets", "import", "images", "rootdir"]
    } else {
        &["images", "rootdir"]
    };
    storage.content = usual.iter().map(|&kind| kind.to_owned()).collect();
    let list = |value: &str| value.split('+').map(str::to_owned).collect();
    for part in parts {
        match part.split_once('=') {
            None if part == "shared" => storage.shared = true,
            Some(("content", value)) => storage.content = list(value),
            Some(("nodes", value)) => storage.nodes = list(value),
            Some(("total", value)) => (storage.total, storage.used) = (parse_bytes(value)?, 0),
            _ => return Err(format!("{part}: {usage}")),
        }
    }
    Ok(storage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_and_sizes_are_read_as_they_are_written() {
        let storage = parse_storage("20=nfs,shared,content=images+import,total=2GiB").unwrap();

        assert_eq!((storage.name.as_str(), storage.plugin.as_str()), ("20", "nfs"));
        assert!(storage.shared);
        assert_eq!(storage.content, ["images", "import"]);
        assert_eq!(storage.total, 2 << 30);
        assert_eq!(parse_bytes("50MiB"), Ok(50 << 20));
        for wrong in ["x", "=dir", "a=", "a=dir,colour=red", "a=dir,total=many"] {
            parse_storage(wrong).unwrap_err();
        }
        parse_bytes("fifty").unwrap_err();
    }
}
