//! What can be followed: an [`Object`] with a [`Key`], a version and perhaps a [`Scope`].

use std::fmt::Debug;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

/// What names an object within its collection: small, cheap to clone, never changing.
///
/// Implemented for every type that fits. Integers and short tuples are best, an `Arc<str>` is
/// fine; a `String` costs an allocation for every event.
pub trait Key: Hash + Eq + Ord + Clone + Debug + Send + Sync + 'static {}

impl<K: Hash + Eq + Ord + Clone + Debug + Send + Sync + 'static> Key for K {}

/// One thing in a collection that is followed.
///
/// The crate moves an object into an [`Arc`](std::sync::Arc) once and never clones it, so it
/// need not be `Clone`. Whatever is not needed after decoding should not be in it.
///
/// ```
/// use informer::Object;
///
/// struct Guest {
///     vmid: u32,
///     name: String,
///     cpu: f64,
/// }
///
/// impl Object for Guest {
///     type Key = u32;
///
///     fn key(&self) -> u32 {
///         self.vmid
///     }
///
///     // The CPU load moves on every poll and is left out: it is no change.
///     fn version(&self) -> u64 {
///         informer::fingerprint(&self.name)
///     }
/// }
/// # let g = Guest { vmid: 1, name: "a".into(), cpu: 0.5 };
/// # assert_eq!(g.version(), Guest { cpu: 0.7, ..g }.version());
/// ```
pub trait Object: Send + Sync + Sized + 'static {
    /// What names the object within its collection.
    type Key: Key;

    /// The name of this object; the same for as long as the object lives.
    fn key(&self) -> Self::Key;

    /// A fingerprint of all that counts as "changed": two objects with one key and one version
    /// are taken to be equal, and the older one is kept.
    ///
    /// A revision number that the source gives will do, as will [`fingerprint`] of the fields
    /// that matter. Versions are compared for equality only, never by order.
    fn version(&self) -> u64;

    /// Tells a thing from another one that came later under the same key, for example by a
    /// creation time. Where it differs, handlers get a delete and an add instead of a change.
    fn incarnation(&self) -> u64 {
        0
    }

    /// The part of the collection that this object belongs to, for sources of which one part
    /// can fail to answer while the others do. See [`Listing::scope`](crate::Listing::scope).
    fn scope(&self) -> Scope {
        Scope::WHOLE
    }
}

/// A part of a collection that answers, or fails to answer, as a whole: a node, a shard, a page
/// of tenants.
///
/// A scope is the hash of its name (64 bits, the same in every process), so that it costs
/// nothing to keep.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Ord, PartialOrd)]
pub struct Scope(u64);

impl Scope {
    /// The scope of objects that name none: the collection itself.
    pub const WHOLE: Self = Self(0);

    /// The scope with this name.
    ///
    /// ```
    /// use informer::Scope;
    ///
    /// assert_eq!(Scope::of("node-a"), Scope::of("node-a"));
    /// assert_ne!(Scope::of("node-a"), Scope::of("node-b"));
    /// ```
    pub fn of(name: impl Hash) -> Self {
        Self(fingerprint(&name).max(1))
    }
}

/// A 64-bit hash of `value`, the same in every run of a program: a version for objects whose
/// source gives none.
pub fn fingerprint<H: Hash + ?Sized>(value: &H) -> u64 {
    // `DefaultHasher::new` has fixed keys; a `RandomState` would give every process its own.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The hash by which all tables of this crate find a key, so that it is computed once per event.
pub(crate) fn table_hash<Q: Hash + ?Sized>(key: &Q) -> u64 {
    static STATE: OnceLock<hashbrown::DefaultHashBuilder> = OnceLock::new();
    STATE.get_or_init(hashbrown::DefaultHashBuilder::default).hash_one(key)
}
