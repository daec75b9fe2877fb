//! Prints the files of a directory as they come, change and go.
//!
//! `cargo run -p informer --example directory -- /tmp`

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use informer::{
    ListDone, ListWatcher, Listing, Object, SharedIndexInformer, SourceError, SubscribeOptions,
};

pub(crate) struct File {
    name: String,
    bytes: u64,
    modified: Duration,
}

impl Object for File {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn version(&self) -> u64 {
        informer::fingerprint(&(self.bytes, self.modified))
    }
}

pub(crate) struct Directory(pub(crate) PathBuf);

impl ListWatcher for Directory {
    type Object = File;

    /// A directory that cannot be read is an error, not an empty one: nothing is taken to be gone.
    async fn list(&self, into: &mut Listing<'_, File>) -> Result<ListDone, SourceError> {
        for entry in std::fs::read_dir(&self.0).map_err(SourceError::transient)? {
            let entry = entry.map_err(SourceError::transient)?;
            // One that went between the two calls is gone, which is what the list says, too.
            let Ok(about) = entry.metadata() else { continue };
            let modified = about.modified().map_err(SourceError::transient)?;
            into.put(File {
                name: entry.file_name().to_string_lossy().into_owned(),
                bytes: about.len(),
                modified: modified.duration_since(UNIX_EPOCH).unwrap_or_default(),
            });
        }
        Ok(ListDone::complete())
    }
}

#[tokio::main]
async fn main() {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| ".".into());
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    follow(path.into(), stop, |line| println!("{line}")).await;
}

pub(crate) async fn follow(
    path: PathBuf,
    stop: impl Future<Output = ()> + Send + 'static,
    mut print: impl FnMut(String),
) {
    let informer = SharedIndexInformer::builder(Directory(path))
        .poll_every(SECOND)
        .on_error(|error, _| eprintln!("{error}: {}", error.cause()))
        .build();
    let mut files = informer.subscribe(SubscribeOptions::named("printer"));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(informer.run(stop));

    while let Some(event) = files.next().await {
        print(format!("{} {} ({} bytes)", event.kind(), event.key(), event.object().bytes));
    }
}

const SECOND: Duration = Duration::from_secs(1);
