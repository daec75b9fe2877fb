//! The states that there is a series for, as prometheus-pve-exporter 3.10 lists them.

/// Of guests that PVE's high availability looks after.
pub(super) const HA_OF_GUESTS: [&str; 11] = [
    "stopped",
    "request_stop",
    "request_start",
    "request_start_balance",
    "started",
    "fence",
    "recovery",
    "migrate",
    "relocate",
    "freeze",
    "error",
];

/// Of nodes.
pub(super) const HA_OF_NODES: [&str; 5] = ["online", "maintenance", "unknown", "fence", "gone"];

/// Of guests that a task works on.
pub(super) const LOCKS: [&str; 9] = [
    "backup",
    "clone",
    "create",
    "migrate",
    "rollback",
    "snapshot",
    "snapshot-delete",
    "suspended",
    "suspending",
];
