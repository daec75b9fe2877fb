//! A stateful Proxmox VE 9.2 over TLS that refuses what PVE refuses.
//!
//! ```text
//! client --TLS--> port of a node --> faults --> token, route, privileges --> a view of the World
//! test or control port ---------------------------------------------------> changes the World
//! ```
//!
//! Start with [`Sim::start`]. Clients see what a real cluster shows (status lines, reason
//! phrases, filtered rows, lists in random order, numbers that move); tests change and read the
//! truth through [`Sim`], break the way to it with [`FaultRule`]s, and count requests with
//! [`Counters`].
//!
//! ```
//! use pve_sim::{Config, Guest, Sim};
//!
//! let sim = Sim::start(Config::quick().nodes(2).guests(5)).unwrap();
//! sim.add_guest(Guest::qemu(900, "pve2").named("web").running());
//! sim.migrate_guest(900, "pve1");
//! assert_eq!(sim.guests().len(), 6);
//! println!("{} {} {}", sim.url(), sim.user_id(), sim.fingerprint("pve1"));
//! ```
//!
//! The template pipeline is carried out: a download is read from its URL at the speed of
//! [`Config::node_link`], an import takes as long as [`Config::copy_rate`] says, and what a task
//! changes is state that [`Sim::files`], [`Sim::volumes`] and [`Sim::guests`] show. Tests let
//! tasks fail ([`Sim::fail_next_task`], [`Sim::kill_task`], …) and ask what is left over
//! ([`Sim::leftovers`]). Of a file only size, hashes and the first 64 KiB are kept.
//!
//! Where it differs from PVE on purpose: keys are P-256, not RSA; an answer without body says
//! `Content-Length: 0`, where PVE leaves that out and closes.

mod api;
mod certs;
mod clock;
mod config;
mod control;
mod counters;
mod fault;
mod hex;
mod http;
mod json;
mod shared;
mod sim;
mod sizes;
mod work;
mod world;

pub use config::{Config, Secret};
pub use control::{COMMANDS, Command, PipelineCommand};
pub use counters::Counters;
pub use fault::{FaultKind, FaultRule};
pub use sim::{Sim, StartError};
pub use sizes::{parse_bytes, parse_storage};
pub use world::plan::Outcome;
pub use world::{
    AUDIT, Address, Agent, File, Guest, Health, Interface, Kind, Node, PRIVILEGES, Status, Storage,
    Task, Token, Volume, World,
};
