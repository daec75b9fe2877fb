//! Prints the guests of a Proxmox VE cluster as they come, change, move and go.
//! `cargo run -p example-pve-cluster -- https://pve1:8006 USER@REALM!TOKENID SECRET FINGERPRINT`

use std::time::Duration;

use anyhow::Context;
use informer::{
    ListDone, ListWatcher, Listing, Object, SharedIndexInformer, SourceError, SubscribeOptions,
};
use pve_operator::pve::{ApiToken, ClientConfig, ErrorClass, FirstUse, PveError, Reader, Trust};

pub(crate) struct Guest {
    vmid: u32,
    node: String,
    status: String,
}

impl Object for Guest {
    type Key = u32;

    fn key(&self) -> u32 {
        self.vmid
    }

    fn version(&self) -> u64 {
        informer::fingerprint(&(&*self.node, &*self.status))
    }
}

pub(crate) struct Cluster(pub(crate) Reader);

impl ListWatcher for Cluster {
    type Object = Guest;

    async fn list(&self, into: &mut Listing<'_, Guest>) -> Result<ListDone, SourceError> {
        let resources = self.0.resources().await.map_err(classed)?;
        for row in resources.guests() {
            let (vmid, status) = (row.vmid.get(), row.status.as_deref().unwrap_or("unknown"));
            // Nothing is allocated for a guest that is as it was.
            into.offer(&vmid, informer::fingerprint(&(&*row.node, status)), || Guest {
                vmid,
                node: row.node.to_string(),
                status: status.to_owned(),
            });
        }
        if resources.guests().is_empty() {
            // PVE leaves out what a token may not see, so this is a question and no answer.
            into.suspicious("no guests at all; may the token see them?");
        }
        Ok(ListDone::complete())
    }
}

fn classed(error: PveError) -> SourceError {
    match error.class() {
        ErrorClass::Unauthorized => SourceError::fatal(error), // until somebody gives us a token
        _ => SourceError::transient(error),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("usage: URL USER@REALM!TOKENID SECRET FINGERPRINT");
    let (url, user, secret, fingerprint) = (next()?, next()?, next()?, next()?);
    let trust = Trust::parse(Some(&fingerprint), None, false, FirstUse::Refuse)?;
    let config = ClientConfig::new(&url, ApiToken::parse(&user, &secret)?, trust)?;
    let informer = SharedIndexInformer::builder(Cluster(Reader::new(config)?))
        .poll_every(Duration::from_secs(1))
        .on_error(|error, _| eprintln!("{error}: {}", error.cause()))
        .build();
    let mut guests = informer.subscribe(SubscribeOptions::named("printer"));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(informer.run(async { drop(tokio::signal::ctrl_c().await) }));
    while let Some(event) = guests.next().await {
        let Guest { vmid, node, status } = &**event.object();
        println!("{} {vmid} on {node}, {status}", event.kind());
    }
    Ok(())
}
