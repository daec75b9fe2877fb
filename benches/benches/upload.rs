//! An upload beside the same bytes hashed and copied by `sha256sum` and `cp`, and what it costs in
//! memory.
//!
//! `UPLOAD_GIB=4 BENCH_FOLDER=/var/tmp cargo bench -p benches --bench upload`; the folder must have
//! room for the image three times.

use std::process::Command;

use anyhow::ensure;
use benches::{
    figures::{figure, ratio},
    number, programs,
    templates::{Site, image},
};
use tokio::time::Instant;

fn main() -> anyhow::Result<()> {
    programs::run(measure())
}

async fn measure() -> anyhow::Result<()> {
    let gib: u64 = number("UPLOAD_GIB", 4)?;
    let site = Site::start(1, &[], &[]).await?;
    let file = image(site.folder(), "image.raw", gib << 30)?;
    let storage = site.storages().await?[0].1;
    // A little one first, so that what every upload needs is there already.
    let little = image(site.folder(), "little.raw", 1 << 20)?;
    site.upload("little", storage, &[], &little)?;

    let before = site.api.memory_mib("VmHWM")?;
    let started = Instant::now();
    site.upload("bench", storage, &[], &file)?;
    let ours = started.elapsed();
    let after = site.api.memory_mib("VmHWM")?;

    let copy = site.folder().join("copy.raw");
    let started = Instant::now();
    for (name, with) in [("sha256sum", None), ("cp", Some(&copy))] {
        let mut command = Command::new(name);
        command.arg(&file).args(with).stdout(std::process::Stdio::null());
        ensure!(command.status()?.success(), "{name} failed");
    }
    let peer = started.elapsed();
    let started = Instant::now();
    ensure!(Command::new("sync").arg(&copy).status()?.success(), "sync failed");
    let synced = peer + started.elapsed();

    figure("upload/bytes", gib << 30);
    figure("upload/seconds", format_args!("{:.2}", ours.as_secs_f64()));
    figure("upload/sha256sum_cp_seconds", format_args!("{:.2}", peer.as_secs_f64()));
    figure("upload/sha256sum_cp_sync_seconds", format_args!("{:.2}", synced.as_secs_f64()));
    figure("upload/vm_hwm_growth_mib", format_args!("{:.1}", after - before));
    // As speeds: above 1 is faster than the peer.
    ratio("upload", peer.as_secs_f64(), ours.as_secs_f64());
    ratio("upload_synced", synced.as_secs_f64(), ours.as_secs_f64());
    Ok(())
}
