//! What stands before the replicas of the API, as a Service of Kubernetes does: new connections go to
//! those that are ready, and whoever is connected already stays where they are. What replicas answer
//! comes slowly, until it is let go.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

/// So much comes at once, and the next after a pause.
const PIECE: usize = 4 << 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Little lies on the way: whoever is served slowly is served for long.
const BUFFER: u32 = 16 << 10;

/// One such address.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    routes: Arc<Mutex<Routes>>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct Routes {
    ready: Vec<SocketAddr>,
    /// Where the client of each open connection was led.
    open: BTreeMap<SocketAddr, SocketAddr>,
    /// Those whose answers come as they are.
    let_go: BTreeSet<SocketAddr>,
}

impl Routes {
    fn carried_by(&self, replica: SocketAddr) -> usize {
        self.open.values().filter(|it| **it == replica).count()
    }

    /// The one with the least to do first.
    fn in_turn(&self) -> Vec<SocketAddr> {
        let mut ready = self.ready.clone();
        ready.sort_by_key(|replica| self.carried_by(*replica));
        ready
    }
}

impl Service {
    pub(super) fn start() -> Self {
        let socket = bounded();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Arc::<Mutex<Routes>>::default();
        let (mut accepting, known) = (JoinSet::new(), Arc::clone(&routes));
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, peer)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(lead(client, peer, Arc::clone(&known)));
            }
        });
        Self { address, routes, _accepting: accepting }
    }

    /// From now on it gets connections.
    pub(super) fn add(&self, replica: SocketAddr) {
        self.routes.lock().ready.push(replica);
    }

    /// From now on it gets no more; those that it has stay.
    pub(super) fn remove(&self, replica: SocketAddr) {
        self.routes.lock().ready.retain(|it| *it != replica);
    }

    /// From now on what it answers comes as it is.
    pub(super) fn let_go(&self, replica: SocketAddr) {
        self.routes.lock().let_go.insert(replica);
    }

    /// From now on what any of them answers comes slowly again.
    pub(super) fn hold(&self) {
        self.routes.lock().let_go.clear();
    }

    /// Who serves the connection of this client.
    pub(super) fn replica_of(&self, client: SocketAddr) -> Option<SocketAddr> {
        self.routes.lock().open.get(&client).copied()
    }
}

/// Leads a client to a replica that takes it.
async fn lead(client: TcpStream, peer: SocketAddr, routes: Arc<Mutex<Routes>>) {
    let replicas = routes.lock().in_turn();
    for replica in replicas {
        if let Ok(server) = bounded().connect(replica).await {
            routes.lock().open.insert(peer, replica);
            let (mut from_client, to_client) = client.into_split();
            let (from_server, mut to_server) = server.into_split();
            let there = async {
                copy(&mut from_client, &mut to_server).await?;
                to_server.shutdown().await
            };
            let back = slowly(from_server, to_client, replica, &routes);
            // Either side may break off.
            drop(tokio::try_join!(there, back));
            routes.lock().open.remove(&peer);
            return;
        }
    }
}

async fn slowly(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    replica: SocketAddr,
    routes: &Mutex<Routes>,
) -> io::Result<()> {
    let mut bytes = vec![0; PIECE];
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..read]).await?;
        if !routes.lock().let_go.contains(&replica) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn bounded() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(BUFFER).unwrap();
    socket.set_send_buffer_size(BUFFER).unwrap();
    socket
}
