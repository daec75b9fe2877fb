//! What the control port holds: it must not keep the cluster running.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Sim;
use crate::http::Ports;
use crate::shared::Shared;

/// A handle that does not keep the cluster running.
#[derive(Clone, Debug)]
pub(crate) struct WeakSim {
    shared: Weak<Shared>,
    ports: Weak<Mutex<Ports>>,
    first: String,
    token_id: String,
    stop: Weak<DropGuard>,
}

impl WeakSim {
    pub(crate) fn upgrade(&self) -> Option<Sim> {
        Some(Sim {
            shared: self.shared.upgrade()?,
            ports: self.ports.upgrade()?,
            first: self.first.clone(),
            token_id: self.token_id.clone(),
            stop: self.stop.upgrade()?,
        })
    }
}

impl Sim {
    pub(crate) fn downgrade(&self) -> WeakSim {
        WeakSim {
            shared: Arc::downgrade(&self.shared),
            ports: Arc::downgrade(&self.ports),
            first: self.first.clone(),
            token_id: self.token_id.clone(),
            stop: Arc::downgrade(&self.stop),
        }
    }

    pub(crate) fn stopped(&self) -> CancellationToken {
        self.shared.stop.clone()
    }

    pub(crate) fn spawn_on(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) {
        self.shared.tasks.spawn_on(task, runtime);
    }
}
