//! Mirrors Proxmox VE clusters into SQL and keeps the rows right.
//!
//! ```text
//! pve_cluster --supervisor--> one pipeline per enabled cluster:
//!     PVE --poller--> sources --informers--> writer --> pve_node, pve_vm, pve_storage
//!                                   +------> details --> vm_ipaddress, disks
//! template_instance --templates--> a template on every node that is wanted
//! ```

pub mod admin;
pub mod args;
pub mod exporter;
pub mod inventory;
pub mod lease;
pub mod metrics;
pub mod pipeline;
pub mod pve;
pub mod runtime;
pub mod supervisor;
pub mod supervisor_plan;
pub mod templates;
