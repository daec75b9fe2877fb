//! Tasks: lists, states and logs.
//!
//! A task is seen by its owner (the same token) and by those who have Sys.Audit on its node
//! (pve-manager: PVE/API2/Tasks.pm).

use crate::json::{Object, Rows, object};
use crate::world::Task;

use super::answer::{Body, Refusal};
use super::call::Call;

/// Finished tasks that each node keeps in the cluster's list.
const SHARED_PER_NODE: usize = 25;

/// `/nodes/{node}/tasks`, newest first; running ones only if `source` asks for them.
pub(super) fn of_node(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let node = call.node().to_owned();
    let auditor = call.may(&format!("/nodes/{node}"), "Sys.Audit");
    let source = call.param("source").unwrap_or("archive");
    let (running, finished) = (source != "archive", source != "active");
    let mut tasks: Vec<&Task> = call
        .world
        .tasks
        .iter()
        .filter(|task| task.node == node && (auditor || task.user == call.token.id))
        .filter(|task| if task.end.is_some() { finished } else { running })
        .filter(|task| is_wanted(call, task))
        .collect();
    tasks.sort_by_key(|task| std::cmp::Reverse((task.end.is_none(), task.end, task.start)));
    let total = tasks.len();
    let start = usize::try_from(call.number("start").unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = match call.number("limit") {
        Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        None => 50,
    };
    let mut rows = Rows::default();
    for task in tasks.into_iter().skip(start).take(limit) {
        node_row(task, &mut rows.row());
    }
    let count = rows.len();
    let data = rows.into_list(0..count);
    // An empty list comes without a total.
    Ok(Body { data, total: (total > 0).then_some(total) })
}

fn is_wanted(call: &Call<'_>, task: &Task) -> bool {
    let exit = task.exit.as_deref().unwrap_or_default();
    let state = match exit {
        "OK" => "ok",
        "unexpected status" => "unknown",
        _ if exit.starts_with("WARNINGS") => "warning",
        _ => "error",
    };
    let errors = call.param("errors").is_some_and(|value| value == "1");
    call.param("vmid").is_none_or(|vmid| task.id == vmid)
        && call.param("typefilter").is_none_or(|kind| task.kind == kind)
        && call.param("userfilter").is_none_or(|user| task.user.contains(user))
        && call.number("since").is_none_or(|since| task.start >= since)
        && call.number("until").is_none_or(|until| task.start <= until)
        && (!errors || (task.end.is_some() && state != "ok"))
        && call.param("statusfilter").is_none_or(|states| {
            task.end.is_some() && states.split([',', ' ', ';']).any(|want| want == state)
        })
}

fn node_row(task: &Task, row: &mut Object<'_>) {
    row.str("upid", &task.upid())
        .str("node", &task.node)
        .num("pid", u64::from(task.pid))
        .num("pstart", task.pstart)
        .num("starttime", task.start)
        .str("type", &task.kind)
        .str("id", &task.id);
    if let (Some(end), Some(exit)) = (task.end, &task.exit) {
        let (user, token) = task.owner();
        row.num("endtime", end).str("status", exit).str("user", user).opt("tokenid", token);
    } else {
        row.str("status", "RUNNING").str("user", &task.user).str("saved", "0");
    }
}

/// `/cluster/tasks`: a token sees nothing without Sys.Audit on `/`, not even its own tasks.
pub(super) fn of_cluster(call: &mut Call<'_>) -> Result<Body, Refusal> {
    if !call.may("/", "Sys.Audit") {
        return Ok(Body::raw(b"[]".to_vec()));
    }
    let mut tasks: Vec<&Task> = Vec::new();
    for node in call.world.nodes.keys() {
        let mut own: Vec<&Task> =
            call.world.tasks.iter().filter(|task| task.node == *node).collect();
        own.sort_by_key(|task| std::cmp::Reverse((task.end.is_none(), task.end, task.start)));
        let running = own.iter().filter(|task| task.end.is_none()).count();
        tasks.extend(own.into_iter().take(running + SHARED_PER_NODE));
    }
    let mut rows = Rows::with_capacity(tasks.len());
    for task in tasks {
        let (user, token) = task.owner();
        let mut row = rows.row();
        row.str("upid", &task.upid())
            .str("node", &task.node)
            .num("starttime", task.start)
            .str("type", &task.kind)
            .str("id", &task.id)
            .str("user", user)
            .opt("tokenid", token);
        if let (Some(end), Some(exit)) = (task.end, &task.exit) {
            row.num("endtime", end).str("status", exit);
            // Read back from a file it is text (seen on PVE 9.2.11).
            if task.fresh {
                row.num("saved", 1)
            } else {
                row.str("saved", "1")
            };
        } else {
            row.num("pid", u64::from(task.pid));
            row.opt("saved", (!task.fresh).then_some("0"));
        }
    }
    Ok(call.shuffled(rows))
}

/// `/nodes/{node}/tasks/{upid}/status`.
pub(super) fn status(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let named = parsed(call)?;
    let task = find(call, &named).ok_or_else(|| Refusal::parameter("upid", "no such task"))?;
    seen(call, task)?;
    let (user, token) = task.owner();
    Ok(Body::raw(object(|row| {
        row.str("upid", &task.upid())
            .str("node", &task.node)
            .num("pid", u64::from(task.pid))
            .num("pstart", task.pstart)
            .num("starttime", task.start)
            .str("type", &task.kind)
            .str("id", &task.id)
            .str("user", user)
            .opt("tokenid", token)
            .str("status", if task.end.is_some() { "stopped" } else { "running" })
            .opt("exitstatus", task.exit.as_deref());
    })))
}

/// `/nodes/{node}/tasks/{upid}/log`: `start` counts from 0, `n` from 1, 50 lines unless told
/// otherwise, 0 is all. An empty log has one line that nobody wrote.
pub(super) fn log(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let named = parsed(call)?;
    let task = find(call, &named);
    seen(call, task.unwrap_or(&named))?;
    let missing = ["unable to open file - No such file or directory".to_owned()];
    let empty = ["no content".to_owned()];
    let lines: &[String] = match task {
        None => &missing,
        Some(task) if task.log.is_empty() => &empty,
        Some(task) => &task.log,
    };
    let start = usize::try_from(call.number("start").unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = match call.number("limit") {
        Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        None => 50,
    };
    let mut rows = Rows::default();
    for (n, line) in lines.iter().enumerate().skip(start).take(limit) {
        rows.row().num("n", n as u64 + 1).str("t", line);
    }
    let count = rows.len();
    Ok(Body { data: rows.into_list(0..count), total: Some(lines.len()) })
}

/// `DELETE /nodes/{node}/tasks/{upid}`: SIGTERM; a task that has ended is left as it is.
pub(super) fn stop(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let named = parsed(call)?;
    if named.user != call.token.id {
        call.need(&format!("/nodes/{}", call.node()), "Sys.Modify")?;
    }
    if let Some(running) = call.world.running.get(&named.upid()) {
        running.stop.cancel();
    }
    Ok(Body::raw(b"null".to_vec()))
}

fn parsed(call: &Call<'_>) -> Result<Task, Refusal> {
    Task::from_upid(call.part("upid"))
        .ok_or_else(|| Refusal::parameter("upid", "unable to parse worker upid"))
}

fn find<'a>(call: &'a Call<'_>, named: &Task) -> Option<&'a Task> {
    let upid = named.upid();
    let node = call.node();
    call.world.tasks.iter().find(|task| task.node == node && task.upid() == upid)
}

fn seen(call: &Call<'_>, task: &Task) -> Result<(), Refusal> {
    let path = format!("/nodes/{}", call.node());
    if task.user == call.token.id || call.may(&path, "Sys.Audit") {
        return Ok(());
    }
    Err(Refusal::forbidden(&path, "Sys.Audit"))
}
