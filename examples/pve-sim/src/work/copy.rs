//! `qemu-img convert`: copies an image into a fresh volume and tells how far it is.

use std::time::Duration;

use super::{End, Worker};
use crate::world::Storage;
use crate::world::volume::{Purpose, Wanted};

/// Lines of progress come this often at most: what sleeps less is put together.
const STEP: Duration = Duration::from_millis(10);

/// An image to copy.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// As the log names it: `local2:import/a.qcow2`.
    pub(crate) volid: String,
    pub(crate) path: String,
    pub(crate) format: String,
    /// Size of the disk inside, in bytes.
    pub(crate) size: u64,
    /// Bytes that the copy takes.
    pub(crate) used: u64,
}

/// Where the copy goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) storage: String,
    pub(crate) vmid: u32,
    pub(crate) format: String,
}

/// Copies; returns the name of the new volume. Whatever fails frees it.
pub(crate) async fn copy(
    worker: &Worker,
    source: &Source,
    target: &Target,
    key: &str,
) -> Result<String, End> {
    let named = if key.is_empty() { String::new() } else { format!(" {key}") };
    worker.log(&format!("create full clone of drive{named} ({})", source.volid));
    let (volid, path) = allocate(worker, target, source.size)?;
    let copied = convert(worker, source, &volid, target, &path).await;
    let mut world = worker.world()?;
    if let Some(volume) = world.volume_mut(&volid, &worker.node) {
        volume.written_until = Duration::ZERO;
        volume.used = source.used + 65_536;
    }
    if let Some(running) = world.running.get_mut(&worker.upid) {
        running.writes.clear();
    }
    if let Err(end) = copied {
        world.free_volume(&volid, &worker.node);
        return Err(end);
    }
    Ok(volid)
}

/// Allocates a volume and says so in the log; returns its name and where it lies.
pub(crate) fn allocate(
    worker: &Worker,
    target: &Target,
    size: u64,
) -> Result<(String, String), End> {
    let Target { storage, vmid, format } = target;
    let mut world = worker.world()?;
    let Some(found) = world.storage(storage).cloned() else {
        return Err(End::Failed(format!("storage '{storage}' does not exist")));
    };
    let volid = world.allocate(Wanted {
        storage,
        node: &worker.node,
        vmid: *vmid,
        format,
        size,
        parent: None,
        purpose: Purpose::Disk,
        now: worker.shared.clock.unix(),
    });
    let name = volid.rsplit([':', '/']).next().unwrap_or_default().to_owned();
    drop(world);
    let path = found.volume_path(*vmid, &name);
    formatting(worker, &found, &path, format, size);
    worker.log(&format!("allocated target volume '{volid}'"));
    Ok((volid, path))
}

/// Allocates the small disk that cloud-init reads; returns its name.
pub(crate) fn cloudinit(worker: &Worker, storage: &str, vmid: u32) -> Result<String, End> {
    const SIZE: u64 = 4 << 20;
    let mut world = worker.world()?;
    let Some(found) = world.storage(storage).cloned() else {
        return Err(End::Failed(format!("storage '{storage}' does not exist")));
    };
    let format = if found.has_files() { "qcow2" } else { "raw" };
    let volid = world.allocate(Wanted {
        storage,
        node: &worker.node,
        vmid,
        format,
        size: SIZE,
        parent: None,
        purpose: Purpose::Cloudinit,
        now: worker.shared.clock.unix(),
    });
    drop(world);
    let name = volid.rsplit([':', '/']).next().unwrap_or_default();
    formatting(worker, &found, &found.volume_path(vmid, name), format, SIZE);
    Ok(volid)
}

/// What a storage says while it allocates.
fn formatting(worker: &Worker, storage: &Storage, path: &str, format: &str, size: u64) {
    let name = path.rsplit('/').next().unwrap_or_default();
    match (storage.has_files(), format) {
        (true, "qcow2") => worker.log(&format!(
            "Formatting '{path}', fmt=qcow2 cluster_size=65536 extended_l2=off \
             preallocation=metadata compression_type=zlib size={size} lazy_refcounts=off \
             refcount_bits=16"
        )),
        (true, format) => {
            worker.log(&format!("Formatting '{path}', fmt={format} size={size} preallocation=off"));
        }
        _ if storage.plugin.starts_with("lvm") => {
            worker.log(&format!("  Logical volume \"{name}\" created."));
        }
        _ => {}
    }
}

async fn convert(
    worker: &Worker,
    source: &Source,
    volid: &str,
    target: &Target,
    path: &str,
) -> Result<(), End> {
    let config = &worker.shared.config;
    let limit = config.copy_rate.map_or(String::new(), |rate| format!("-r {}K ", rate >> 10));
    let command = format!(
        "/usr/bin/qemu-img convert -p -n {limit}-f {} -O {} {} zeroinit:{path}",
        source.format, target.format, source.path
    );
    let failed = |how: &str| format!("copy failed: command '{command}' failed: {how}");
    let room = {
        let mut world = worker.world()?;
        if let Some(volume) = world.volume_mut(volid, &worker.node) {
            volume.written_until = Duration::MAX;
        }
        if let Some(running) = world.running.get_mut(&worker.upid) {
            running.writes.push((volid.to_owned(), worker.node.clone()));
        }
        world.free_space(&target.storage, &worker.node)
    };
    let steps = (source.size >> 25).clamp(2, 90);
    let whole = config.copy_rate.map_or(Duration::ZERO, |rate| {
        Duration::from_secs_f64(as_float(source.size) / as_float(rate.max(1)))
    });
    let pause = whole / u32::try_from(steps).expect("at most ninety");
    progress(worker, 0, source.size);
    let mut owed = Duration::ZERO;
    for step in 1..=steps {
        owed += pause;
        if owed >= STEP {
            let stopped = worker.sleep(std::mem::take(&mut owed)).await;
            stopped.map_err(|end| end.within(failed))?;
        }
        if step == steps / 2 {
            worker.half_way().await.map_err(|end| end.within(failed))?;
        }
        progress(worker, source.size * step / steps, source.size);
    }
    progress(worker, source.size, source.size);
    if source.used > room {
        worker
            .log(&format!("qemu-img: error while writing at byte {room}: No space left on device"));
        return Err(End::Failed(failed("exit code 1")));
    }
    Ok(())
}

fn progress(worker: &Worker, done: u64, of: u64) {
    let percent = as_float(done) * 100.0 / as_float(of.max(1));
    worker.log(&format!("transferred {} of {} ({percent:.2}%)", bytes(done), bytes(of)));
}

/// `22.7 MiB`, as qemu-server renders bytes.
fn bytes(number: u64) -> String {
    let mut value = as_float(number);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
fn as_float(number: u64) -> f64 {
    number as f64
}
