//! One request on its way to a handler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::config::Config;
use crate::json::Rows;
use crate::work::{Job, Work};
use crate::world::{Storage, Token, World};

use super::answer::{Body, Refusal};

/// A request with all that a handler may look at.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) config: &'a Config,
    /// Time of the simulator.
    pub(crate) now: Duration,
    /// The node whose port took the request.
    pub(crate) entry: &'a str,
    pub(crate) token: Arc<Token>,
    /// Values of the `{…}` parts of the path.
    pub(crate) path: BTreeMap<&'static str, String>,
    /// Parameters, from the query and from the body.
    pub(crate) query: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub(crate) unix: u64,
    /// Tasks that this request has begun; they run when it is answered.
    pub(crate) jobs: Vec<Job>,
    /// What is still to be asked elsewhere before this request can be answered.
    pub(crate) later: Option<Later>,
}

/// Work of a request that waits for others.
#[derive(Debug)]
pub(crate) enum Later {
    /// What a URL says of itself.
    Metadata { url: url::Url, verify: bool },
}

impl Call<'_> {
    /// Begins a task on the node in the path; the answer is its UPID.
    pub(crate) fn begin(&mut self, kind: &str, id: &str, vmid: Option<u32>, work: Work) -> Body {
        let node = self.node().to_owned();
        self.begin_on(&node, kind, id, vmid, work)
    }

    /// Begins a task on a node.
    pub(crate) fn begin_on(
        &mut self,
        node: &str,
        kind: &str,
        id: &str,
        vmid: Option<u32>,
        work: Work,
    ) -> Body {
        let user = self.token.id.clone();
        let task = self.world.begin_task(node, kind, id, &user, self.unix, vmid);
        let upid = task.upid();
        self.jobs.push(Job { task, vmid, work });
        Body::of(&upid)
    }

    /// Whether the caller has a privilege on a guest that is, or will be, in a pool.
    pub(crate) fn may_in(&self, vmid: u32, pool: Option<&str>, privilege: &str) -> bool {
        self.may(&format!("/vms/{vmid}"), privilege)
            || pool.is_some_and(|pool| self.may(&format!("/pool/{pool}"), privilege))
    }

    /// Refuses unless the caller has the privilege.
    pub(crate) fn need(&self, path: &str, privilege: &str) -> Result<(), Refusal> {
        if self.may(path, privilege) { Ok(()) } else { Err(Refusal::forbidden(path, privilege)) }
    }

    /// A storage that the node in the path has, as PVE looks it up.
    pub(crate) fn storage_here(&self, name: &str) -> Result<&Storage, Refusal> {
        let Some(storage) = self.world.storage(name) else {
            return Err(Refusal::error(format!("storage '{name}' does not exist")));
        };
        if !storage.enabled {
            return Err(Refusal::error(format!("storage '{name}' is disabled")));
        }
        let node = self.node();
        if !storage.is_on(node) {
            let text = format!("storage '{name}' is not available on node '{node}'");
            return Err(Refusal::error(text));
        }
        Ok(storage)
    }

    /// A parameter that PVE reads as true.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.param(name).map(|text| matches!(text, "1" | "on" | "yes" | "true"))
    }

    /// PVE's version of the node in the path, as `(8, 4)`.
    pub(crate) fn release(&self) -> (u32, u32) {
        let version = self.world.node(self.node()).map_or("", |node| node.version.as_str());
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// Whether the caller has a privilege on a path.
    pub(crate) fn may(&self, path: &str, privilege: &str) -> bool {
        self.token.on(path).contains(privilege)
            || self
                .pool_of(path)
                .is_some_and(|pool| self.token.on(&format!("/pool/{pool}")).contains(privilege))
    }

    fn pool_of(&self, path: &str) -> Option<&str> {
        if let Some(name) = path.strip_prefix("/storage/") {
            return self.world.storage(name)?.pool.as_deref();
        }
        let vmid = path.strip_prefix("/vms/")?.parse().ok()?;
        self.world.guests.get(&vmid)?.pool.as_deref()
    }

    /// Puts the path's values into a pattern such as `/vms/{vmid}`.
    pub(crate) fn fill(&self, pattern: &str) -> String {
        let mut filled = pattern.to_owned();
        for (name, value) in &self.path {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        filled
    }

    /// The value of a `{…}` part that the route has.
    pub(crate) fn part(&self, name: &str) -> &str {
        self.path.get(name).map(String::as_str).expect("the route has this part")
    }

    /// The node in the path, `localhost` being the one that was asked.
    pub(crate) fn node(&self) -> &str {
        match self.part("node") {
            "localhost" => self.entry,
            node => node,
        }
    }

    pub(crate) fn vmid(&self) -> Result<u32, Refusal> {
        let text = self.part("vmid");
        match text.parse() {
            Ok(vmid) if (100..=999_999_999).contains(&vmid) => Ok(vmid),
            _ => Err(Refusal::parameter(
                "vmid",
                "invalid format - value does not look like a valid VM ID\n",
            )),
        }
    }

    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.param(name)?.parse().ok()
    }

    /// A new tick of usage numbers; each answer that shows some takes one.
    pub(crate) fn tick(&mut self) -> u64 {
        if self.config.moving {
            self.world.tick += 1;
        }
        self.world.tick
    }

    fn rng(&mut self) -> SmallRng {
        self.world.serial += 1;
        SmallRng::seed_from_u64(self.config.seed ^ self.world.serial.rotate_left(32))
    }

    /// A list in random order, as PVE's hashes give it.
    pub(crate) fn shuffled(&mut self, rows: Rows) -> Body {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        if self.config.shuffle {
            order.shuffle(&mut self.rng());
        }
        Body::raw(rows.into_list(order.into_iter()))
    }

    /// Content types joined in random order, the same for one answer.
    pub(crate) fn joined(&mut self, parts: &[String]) -> String {
        let mut parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if self.config.shuffle {
            parts.shuffle(&mut self.rng());
        }
        parts.join(",")
    }
}
