//! What the tests are made of: an operator on a database, clusters that it follows, and waiting.

mod compare;
mod eventually;
mod http;
mod mirror;
mod proxy;
mod replica;
mod workshop;

#[path = "../../../../schema/tests/images/server.rs"]
pub(crate) mod s3;

pub(crate) use eventually::{eventually, on_every_database};
pub(crate) use http::{get, send};
pub(crate) use mirror::{Followed, Mirror, SOON, simulate};
pub(crate) use proxy::Proxy;
pub(crate) use replica::{Balancer, Replica};
pub(crate) use workshop::{Asked, LATER, OPTIONS as QUICK_TEMPLATES, Workshop, qcow2, small, told};
