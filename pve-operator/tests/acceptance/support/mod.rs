//! What the tests are made of: an operator on a database, clusters that it follows, and waiting.

mod compare;
mod eventually;
mod http;
mod mirror;
mod proxy;
mod replica;
mod workshop;

pub(crate) use eventually::{eventually, on_every_database};
pub(crate) use http::{get, send};
pub(crate) use mirror::{Followed, Mirror, SOON, simulate};
pub(crate) use proxy::Proxy;
pub(crate) use replica::{Balancer, Replica};
pub(crate) use workshop::{Asked, LATER, Workshop, qcow2, small, told};
