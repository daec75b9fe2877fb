//! An S3 server within a test. The acceptance tests of `pve-operator` have this file too.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) const KEY: &str = "AKIAEXAMPLE";
pub(crate) const SECRET: &str = "hunter2";

/// One with the bucket `images`; gone when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    root: TempDir,
    address: SocketAddr,
    _connections: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("images")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let service = service.clone();
                served.spawn(async move {
                    let http = http1::Builder::new();
                    // A client that hangs up is none of our business.
                    drop(http.serve_connection(TokioIo::new(socket), service).await);
                });
            }
        });
        Self { root, address, _connections: connections }
    }

    /// As `--images` takes it.
    pub(crate) fn url(&self) -> String {
        format!("s3://images/lab/pve?endpoint=http://{}&region=lab", self.address)
    }

    /// Where everything lies: the bucket, and parts of unfinished uploads beside it.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }
}
