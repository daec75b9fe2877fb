//! TEMPORARY until schema has these.
#![allow(missing_debug_implementations, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod sweep {
    use schema::*;
    pub async fn cluster(_: &mut Conn, _: ClusterId) -> Result<u64, DbError> { Ok(0) }
    pub async fn orphans(_: &mut Conn) -> Result<Vec<ClusterId>, DbError> { Ok(vec![]) }
}
pub mod ip_address {
    use schema::*;
    #[derive(Debug)]
    pub struct Address { pub ip_address: String, pub network_id: Option<String>, pub nic_name: String, pub mac_address: Option<String> }
    pub async fn replace(_: &mut Conn, _: ClusterId, _: GuestId, _: &[Address]) -> Result<u64, DbError> { Ok(0) }
    pub async fn mark_stale(_: &mut Conn, _: ClusterId, _: GuestId) -> Result<u64, DbError> { Ok(0) }
}
pub mod secret {
    pub use schema::secret::{Secret, SecretError};
    pub struct Keys;
    impl Keys { pub fn from_file(_: &std::path::Path) -> Result<Self, SecretError> { Err(SecretError::NoKey) } pub fn seal(&self, s: &Secret) -> String { s.expose().to_owned() } }
    pub fn open(_: Option<&Keys>, s: &Secret) -> Result<Secret, SecretError> { Ok(s.clone()) }
    pub fn is_sealed(_: &Secret) -> bool { true }
}
