//! One image to eight nodes beside the same to one node, each node behind a link of its own.
//!
//! `cargo bench -p benches --bench distribute`

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
    let mib: u64 = number("IMAGE_MIB", 128)?;
    let link = std::env::var("NODE_LINK").unwrap_or_else(|_| "8MiB".to_owned());
    let site = Site::start(9, &["--node-link", &link, "--copy-rate", "200MiB"], &[]).await?;
    let storages = site.storages().await?;
    let nodes = site.nodes().await?;

    let mut seconds = Vec::new();
    for copies in [0, 7] {
        // Another file each time, so that nothing is there already.
        let bytes = (mib << 20) + (copies << 20);
        let file = image(site.folder(), &format!("image-{copies}.raw"), bytes)?;
        let others: Vec<i64> =
            nodes.iter().skip(1).take(usize::try_from(copies)?).map(|(_, id)| *id).collect();
        let template = site.upload(&format!("to-{copies}"), storages[0].1, &others, &file)?;
        let started = Instant::now();
        site.until_available(template).await?;
        seconds.push(started.elapsed().as_secs_f64());
        figure(
            &format!("distribute/seconds_{}_nodes", copies + 1),
            format_args!("{:.2}", started.elapsed().as_secs_f64()),
        );
    }
    ratio("distribute_8_nodes/1_node", seconds[1], seconds[0]);
    Ok(())
}
