//! What a cluster's ports and its owner share, and the runtime that they run on.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Config;
use crate::counters::Counters;
use crate::fault::Faults;
use crate::work::link::Link;
use crate::world::World;

/// One simulated cluster. No two of its locks are ever held at once.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) world: Mutex<World>,
    pub(crate) faults: Mutex<Faults>,
    pub(crate) counters: Mutex<Counters>,
    /// What the downloads of a node share, by node.
    pub(crate) links: Mutex<BTreeMap<String, Arc<Link>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// The certificate that a node presents to connections that begin now.
    pub(crate) fn tls_of(&self, node: &str) -> Option<Arc<ServerConfig>> {
        Some(Arc::clone(&self.world.lock().nodes.get(node)?.certificate.tls))
    }
}

/// All simulators of a process run on a runtime of their own: a test's clock may be paused and
/// its only thread may wait for the simulator.
pub(crate) fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("pve-sim")
                .enable_all()
                .build()
                .expect("the system has threads left")
        })
        .handle()
}
