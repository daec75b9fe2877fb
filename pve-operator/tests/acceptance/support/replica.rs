//! An API as nodes see it: it serves images, and dies like a process.

use std::{net::SocketAddr, time::Duration};

use schema::{Db, images::ImageStore};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
};

/// One replica, on a runtime of its own.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Replica {
    pub(crate) async fn start(db: &Db, images: &ImageStore, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let mut settings = pve_api::Settings::default();
        settings.auth = pve_api::Auth::Off;
        settings.images = Some(images.clone());
        let router = pve_api::router_with(db.clone(), settings);
        let bound = runtime.spawn(async move {
            let listener = TcpListener::bind(("127.0.0.1", port)).await?;
            let address = listener.local_addr()?;
            let mut serving = JoinSet::new();
            serving.spawn(async move { axum::serve(listener, router).await });
            serving.detach_all();
            Ok::<_, std::io::Error>(address)
        });
        let address = bound.await.expect("it does not panic").expect("the port is free");
        Self { address, runtime: Some(runtime) }
    }

    /// As SIGKILL does: connections break.
    pub(crate) async fn kill(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let ended = move || runtime.shutdown_timeout(Duration::from_secs(2));
        tokio::task::spawn_blocking(ended).await.expect("a runtime can be dropped");
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What stands before replicas: leads to the first that takes connections.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl Balancer {
    pub(crate) async fn before(replicas: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let replicas = replicas.clone();
                connections.spawn(async move {
                    for replica in replicas {
                        if let Ok(mut server) = TcpStream::connect(replica).await {
                            // Either side may break off.
                            drop(copy_bidirectional(&mut client, &mut server).await);
                            return;
                        }
                    }
                });
            }
        });
        Self { address, _accepting: accepting }
    }
}
