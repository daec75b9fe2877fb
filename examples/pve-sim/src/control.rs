//! The control port: what [`Sim`] offers, for other processes.
//!
//! Plain HTTP and JSON on loopback. `POST /` takes one command or an array of commands, each an
//! object whose `do` names it (see [`COMMANDS`]); `GET /state` is the truth, `GET /counters`
//! what was asked. An answer is `{"ok":true,…}`, or 400 with `{"error":"…"}` and nothing done
//! from that command on.

mod pipeline;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};

pub use pipeline::PipelineCommand;

use crate::fault::FaultRule;
use crate::shared::runtime;
use crate::sim::Sim;
use crate::world::{Agent, Guest, Health, Kind, PRIVILEGES, Status};

/// The commands as `pve-sim --help` shows them.
pub const COMMANDS: &str = r#"Control port (control_url): plain HTTP, JSON.
  GET /state              nodes, guests, storages, volumes, files (also invisible ones), running
                          tasks as they really are, and what nobody will clean up (leftovers)
  GET /counters           requests by path, node, status; list requests; requests with a token;
                          downloads and their bytes by node; requests under a lease that was over
  POST /                  one command, or an array of them:
    {"do":"add_guest","vmid":900,"kind":"qemu|lxc","node":"pve1","name":"web","running":true,
     "template":false,"tags":["a"],"pool":"p","lock":"clone","ips":["10.0.0.5/24"]}
    {"do":"remove_guest","vmid":900}        {"do":"rename","vmid":900,"name":"x"}
    {"do":"migrate","vmid":900,"node":"pve2"}
    {"do":"set_status","vmid":900,"status":"running|stopped|paused"}
    {"do":"set_lock","vmid":900,"lock":"backup"}            without "lock": unlocked
    {"do":"set_tags","vmid":900,"tags":["a"]}
    {"do":"set_ips","vmid":900,"ips":["10.0.0.6/24"]}
    {"do":"set_agent","vmid":900,"agent":"answers|absent|silent|refuses"}
    {"do":"add_node","node":"pve9"}         {"do":"remove_node","node":"pve9"}
    {"do":"rejoin","node":"pve9"}
    {"do":"node_down","node":"pve2"}        {"do":"node_up","node":"pve2"}
    {"do":"set_health","node":"pve2","health":"up|off|proxy_down|daemon_down|daemon_hung|isolated"}
    {"do":"quorum","on":false}              {"do":"renew_certificate","node":"pve1"}
    {"do":"rotate_token"}  {"do":"revoke_token"}  {"do":"restore_token"}
    {"do":"grant","path":"/","privileges":["VM.Audit"]}     {"do":"withdraw", likewise}
    {"do":"skip","seconds":300}             the cluster's time passes
    {"do":"fault","path":"/cluster/resources","method":"GET","node":"pve1","times":2,"kind":K}
      K: {"delay":{"ms":500}}  {"status":{"code":596,"reason":"Connection timed out"}}
         "drop_before_answer"  "drop_half_body"  "garbage_element"  "loose_types"
         "empty_list"  "wrong_order"  "not_json"  "stall_forever"
         {"late":{"ms":30000,"after_ms":6000}}    596, and the work begins after it
    {"do":"clear_faults"}                   {"do":"reset_counters"}
    {"do":"fail_task","kind":"qmconfig","vmid":300,"node":"pve1","error":"text"}   the next one;
         or "warnings":2; vmid and node may be left out. Kinds: download imgcopy imgdel qmcreate
         qmconfig qmtemplate qmclone qmdestroy qmstart qmstop
    {"do":"hang_task","kind":"download"}    the next one, until it is stopped or killed
    {"do":"kill_task","upid":"UPID:…"}      or "kind":"qmconfig","vmid":300: those that run;
         with "next":true the next one. "leave_child_ms":30000: qemu-img goes on for so long
    {"do":"clear_plans"}
    {"do":"add_storage","storage":"10","type":"dir","shared":false,"content":["import"],
     "nodes":["pve1"],"total":1000000000}
    {"do":"set_storage","storage":"local","content":["iso"],"enabled":true}        likewise
    {"do":"set_free","node":"pve1","storage":"local","bytes":1000000}
    {"do":"next_id","lower":9000,"upper":9100}
"#;

/// One change of the cluster: [`COMMANDS`] shows them, [`Sim`] says what they do.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    AddGuest(NewGuest),
    RemoveGuest { vmid: u32 },
    Rename { vmid: u32, name: String },
    Migrate { vmid: u32, node: String },
    SetStatus { vmid: u32, status: Status },
    SetLock { vmid: u32, lock: Option<String> },
    SetTags { vmid: u32, tags: Vec<String> },
    SetIps { vmid: u32, ips: Vec<String> },
    SetAgent { vmid: u32, agent: Agent },
    AddNode { node: String },
    RemoveNode { node: String },
    Rejoin { node: String },
    NodeDown { node: String },
    NodeUp { node: String },
    SetHealth { node: String, health: Health },
    Quorum { on: bool },
    RenewCertificate { node: String },
    RotateToken,
    RevokeToken,
    RestoreToken,
    Grant { path: String, privileges: Vec<String> },
    Withdraw { path: String, privileges: Vec<String> },
    Skip { seconds: u64 },
    Fault(FaultRule),
    ClearFaults,
    ResetCounters,
}

/// A guest as the control port takes it; what is left out is as [`Guest::qemu`] has it.
#[derive(Clone, Debug, Deserialize)]
pub struct NewGuest {
    pub vmid: u32,
    pub kind: Kind,
    pub node: String,
    pub name: Option<String>,
    #[serde(default)]
    pub running: bool,
    #[serde(default)]
    pub template: bool,
    #[serde(default)]
    pub tags: Vec<String>,
    pub pool: Option<String>,
    pub lock: Option<String>,
    #[serde(default)]
    pub ips: Vec<String>,
}

impl NewGuest {
    fn into_guest(self) -> Guest {
        let mut guest = match self.kind {
            Kind::Qemu => Guest::qemu(self.vmid, &self.node),
            Kind::Lxc => Guest::lxc(self.vmid, &self.node),
        };
        if let Some(name) = self.name {
            guest.name = name;
        }
        if self.running {
            guest.status = Status::Running;
        }
        guest.template = self.template;
        guest.tags = self.tags;
        guest.pool = self.pool;
        guest.lock = self.lock;
        if !self.ips.is_empty() {
            guest.set_ips(&borrowed(&self.ips));
        }
        guest
    }
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

impl Sim {
    /// Opens a control port. It closes with the cluster.
    ///
    /// # Errors
    ///
    /// If the address is taken.
    pub fn serve_control(&self, listen: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // A handle would keep the cluster alive for ever: the port must not hold one.
        let weak = self.downgrade();
        let stop = self.stopped();
        let serve = async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!(%error, "Cannot listen for control"),
            };
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    Some(_) = connections.join_next() => continue,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { continue };
                let weak = weak.clone();
                let service = service_fn(move |request| {
                    let sim = weak.upgrade();
                    async move { Ok::<_, Infallible>(answer(sim, request).await) }
                });
                connections.spawn(async move {
                    let served =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = served.await {
                        tracing::debug!(%error, "Control connection ended early");
                    }
                });
            }
        };
        self.spawn_on(serve, runtime());
        Ok(address)
    }

    /// Carries out a command.
    ///
    /// # Errors
    ///
    /// A sentence, and nothing done, if it names a node, guest or privilege that there is not,
    /// or a port is taken.
    pub fn run(&self, command: Command) -> Result<Value, String> {
        self.check(&command)?;
        match command {
            Command::AddGuest(guest) => self.add_guest(guest.into_guest()),
            Command::RemoveGuest { vmid } => self.remove_guest(vmid),
            Command::Rename { vmid, name } => self.rename(vmid, &name),
            Command::Migrate { vmid, node } => self.migrate_guest(vmid, &node),
            Command::SetStatus { vmid, status } => self.set_status(vmid, status),
            Command::SetLock { vmid, lock } => self.set_lock(vmid, lock.as_deref()),
            Command::SetTags { vmid, tags } => self.set_tags(vmid, &borrowed(&tags)),
            Command::SetIps { vmid, ips } => self.set_ips(vmid, &borrowed(&ips)),
            Command::SetAgent { vmid, agent } => self.set_agent(vmid, agent),
            Command::AddNode { node } | Command::Rejoin { node } => {
                self.add_node(&node).map_err(|error| error.to_string())?;
                return Ok(json!({"ok": true, "url": self.url_of(&node)}));
            }
            Command::RemoveNode { node } => self.remove_node(&node),
            Command::NodeDown { node } => self.node_down(&node),
            Command::NodeUp { node } => self.node_up(&node),
            Command::SetHealth { node, health } => self.set_health(&node, health),
            Command::Quorum { on } => self.set_quorum(on),
            Command::RenewCertificate { node } => {
                return Ok(json!({"ok": true, "fingerprint": self.renew_certificate(&node)}));
            }
            Command::RotateToken => {
                return Ok(json!({"ok": true, "user_token": self.rotate_token()}));
            }
            Command::RevokeToken => self.revoke_token(),
            Command::RestoreToken => self.restore_token(),
            Command::Grant { path, privileges } => self.grant(&path, &borrowed(&privileges)),
            Command::Withdraw { path, privileges } => {
                self.withdraw(&path, &borrowed(&privileges));
            }
            Command::Skip { seconds } => self.skip(Duration::from_secs(seconds)),
            Command::Fault(rule) => self.fault(rule),
            Command::ClearFaults => self.clear_faults(),
            Command::ResetCounters => self.reset_counters(),
        }
        Ok(json!({"ok": true}))
    }

    fn check(&self, command: &Command) -> Result<(), String> {
        let node = |name: &str| {
            let there = self.look(|world| world.nodes.contains_key(name));
            if there { Ok(()) } else { Err(format!("there is no node {name}")) }
        };
        let guest = |vmid: u32| {
            let there = self.look(|world| world.guests.contains_key(&vmid));
            if there { Ok(()) } else { Err(format!("there is no guest {vmid}")) }
        };
        match command {
            Command::AddGuest(new) => node(&new.node),
            Command::RemoveGuest { vmid }
            | Command::Rename { vmid, .. }
            | Command::SetStatus { vmid, .. }
            | Command::SetLock { vmid, .. }
            | Command::SetTags { vmid, .. }
            | Command::SetIps { vmid, .. }
            | Command::SetAgent { vmid, .. } => guest(*vmid),
            Command::Migrate { vmid, node: to } => guest(*vmid).and_then(|()| node(to)),
            Command::AddNode { node: name } | Command::Rejoin { node: name } => match node(name) {
                Ok(()) => Err(format!("there is a node {name} already")),
                Err(_) => Ok(()),
            },
            Command::RemoveNode { node: name }
            | Command::NodeDown { node: name }
            | Command::NodeUp { node: name }
            | Command::SetHealth { node: name, .. }
            | Command::RenewCertificate { node: name } => node(name),
            Command::Grant { privileges, .. } | Command::Withdraw { privileges, .. } => {
                match privileges.iter().find(|name| !PRIVILEGES.contains(&name.as_str())) {
                    Some(name) => Err(format!("PVE 9.2 has no privilege {name}")),
                    None => Ok(()),
                }
            }
            Command::Quorum { .. }
            | Command::RotateToken
            | Command::RevokeToken
            | Command::RestoreToken
            | Command::Skip { .. }
            | Command::Fault(_)
            | Command::ClearFaults
            | Command::ResetCounters => Ok(()),
        }
    }
}

async fn answer(sim: Option<Sim>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(sim) = sim else { return json_answer(StatusCode::GONE, &json!({"error": "gone"})) };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/state") => {
            let state = json!({
                "nodes": sim.nodes(), "guests": sim.guests(), "storages": sim.storages(),
                "volumes": sim.volumes(), "files": sim.all_files(),
                "running_tasks": sim.running_tasks(), "leftovers": sim.leftovers(),
                "quorate": sim.look(|world| world.quorate),
            });
            json_answer(StatusCode::OK, &state)
        }
        (&Method::GET, "/counters") => json_answer(StatusCode::OK, &json!(sim.counters())),
        (&Method::POST, "/") => {
            let body = match Limited::new(request.into_body(), 64 << 20).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => return refused(&error.to_string()),
            };
            // Closing a port waits for its task, so this may not sit on a worker.
            let done = tokio::task::spawn_blocking(move || run_all(&sim, &body)).await;
            match done {
                Ok(Ok(result)) => json_answer(StatusCode::OK, &result),
                Ok(Err(text)) => refused(&text),
                Err(error) => refused(&error.to_string()),
            }
        }
        _ => json_answer(
            StatusCode::NOT_FOUND,
            &json!({"error": "GET /state, GET /counters or POST / with a command"}),
        ),
    }
}

fn run_all(sim: &Sim, body: &[u8]) -> Result<Value, String> {
    let value: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    match value {
        Value::Array(commands) => {
            commands.into_iter().map(|command| run_one(sim, command)).collect()
        }
        one => run_one(sim, one),
    }
}

fn run_one(sim: &Sim, command: Value) -> Result<Value, String> {
    if PipelineCommand::is_meant(&command) {
        let parsed = serde_json::from_value(command).map_err(|error| error.to_string())?;
        return sim.run_pipeline(parsed);
    }
    sim.run(serde_json::from_value(command).map_err(|error| error.to_string())?)
}

fn refused(text: &str) -> Response<Full<Bytes>> {
    json_answer(StatusCode::BAD_REQUEST, &json!({"error": text}))
}

fn json_answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}
