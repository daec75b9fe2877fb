//! A way to a server that can be cut.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use url::Url;

/// Forwards connections while it is open; closes them, and every new one, while it is cut.
pub(crate) struct Proxy {
    open: Arc<watch::Sender<bool>>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// In front of the server that `url` names; also answers the URL that leads through it.
    pub(crate) async fn before(url: &str) -> (Self, String) {
        let mut url = Url::parse(url).expect("a test database has a URL");
        let server =
            (url.host_str().expect("it has a host").to_owned(), url.port().expect("and a port"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        url.set_host(Some("127.0.0.1")).expect("an address is a host");
        url.set_port(Some(address.port())).expect("such a URL may have a port");
        if url.scheme() == "mysql" {
            // Else the driver finds the server's socket, and goes round.
            url.query_pairs_mut().append_pair("prefer_socket", "false");
        }
        let open = Arc::new(watch::Sender::new(true));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, server, Arc::clone(&open)));
        (Self { open, _accepting: accepting }, url.to_string())
    }

    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn accept(listener: TcpListener, server: (String, u16), open: Arc<watch::Sender<bool>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (server, mut open) = (server.clone(), open.subscribe());
        connections.spawn(async move {
            let forward = async {
                let mut server = TcpStream::connect(server).await?;
                copy_bidirectional(&mut client, &mut server).await
            };
            tokio::select! {
                _ = forward => {}
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }
}
