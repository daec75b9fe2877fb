//! How parsers read an image: small pieces, by offset, never outside of it.

use std::cell::RefCell;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::runtime::Handle;

use super::{InspectError, Refused};
use crate::images::{ImageError, ImageStore, ObjectName};

/// The most that parsers read at once, and so what they allocate.
pub const PIECE: usize = 1024 * 1024;

/// Bytes that can be read anywhere.
pub trait ReadAt {
    fn len(&self) -> u64;

    /// Fills all of `buffer` from `offset` on. Never called for bytes outside of `0..len`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError>;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ReadAt for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let start = usize::try_from(offset).expect("inside of a slice");
        buffer.copy_from_slice(&self[start..start + buffer.len()]);
        Ok(())
    }
}

/// `length` bytes from `offset` on.
///
/// # Errors
///
/// Refused if the image ends before, which is what a header says that was made up.
pub(super) fn piece(
    image: &impl ReadAt,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>, InspectError> {
    let end = offset.checked_add(length as u64).filter(|end| *end <= image.len());
    if end.is_none() || length > PIECE {
        return Err(Refused::new(format!(
            "the image ends after {} bytes, though it refers to what is behind: it was cut off or \
             is damaged; send it again",
            image.len()
        ))
        .into());
    }
    let mut bytes = vec![0; length];
    image.read_at(offset, &mut bytes)?;
    Ok(bytes)
}

/// At most `length` bytes from the beginning.
pub(super) fn prefix(image: &impl ReadAt, length: usize) -> Result<Vec<u8>, InspectError> {
    piece(image, 0, usize::try_from(image.len()).map_or(length, |all| all.min(length)))
}

/// Numbers in a header that was read whole; the offsets are constants of its format.
pub(super) fn be32(header: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(number(header, at))
}

pub(super) fn be64(header: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(number(header, at))
}

pub(super) fn le16(header: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(header, at))
}

pub(super) fn le32(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(header, at))
}

pub(super) fn le64(header: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(header, at))
}

fn number<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header[at..at + N].try_into().expect("N bytes")
}

/// Part of an image: a file in an archive.
#[derive(Debug)]
pub(super) struct Window<'a, R> {
    image: &'a R,
    start: u64,
    bytes: u64,
}

impl<'a, R: ReadAt> Window<'a, R> {
    /// `start + bytes` must not be behind the image's end.
    pub(super) fn new(image: &'a R, start: u64, bytes: u64) -> Self {
        Self { image, start, bytes }
    }
}

impl<R: ReadAt> ReadAt for Window<'_, R> {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.image.read_at(self.start + offset, buffer)
    }
}

/// An image in the store. Reads block, so it is for threads where that is fine.
#[derive(Debug)]
pub(super) struct Opened {
    runtime: Handle,
    store: ImageStore,
    object: ObjectName,
    bytes: u64,
    /// The last page that was read: headers lie together, and each request to a bucket costs.
    page: RefCell<(u64, Bytes)>,
}

const PAGE: u64 = 64 * 1024;

impl Opened {
    pub(super) async fn new(store: &ImageStore, object: &ObjectName) -> Result<Self, ImageError> {
        let Some(bytes) = store.stat(object).await? else {
            return Err(ImageError::NotFound { object: object.clone() });
        };
        Ok(Self {
            runtime: Handle::current(),
            store: store.clone(),
            object: object.clone(),
            bytes,
            page: RefCell::default(),
        })
    }

    fn load(&self, start: u64) -> Result<(), ImageError> {
        if self.page.borrow().0 == start && !self.page.borrow().1.is_empty() {
            return Ok(());
        }
        let range = start..self.bytes.min(start + PAGE);
        let read = async {
            let chunks = self.store.read(&self.object, range.clone()).await?;
            chunks.try_collect::<Vec<Bytes>>().await
        };
        let page = Bytes::from(self.runtime.block_on(read)?.concat());
        if page.len() as u64 != range.end - range.start {
            return Err(ImageError::NotFound { object: self.object.clone() });
        }
        self.page.replace((start, page));
        Ok(())
    }
}

impl ReadAt for Opened {
    fn len(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), ImageError> {
        while !buffer.is_empty() {
            let start = offset / PAGE * PAGE;
            self.load(start)?;
            let page = &self.page.borrow().1;
            let within = usize::try_from(offset - start).expect("less than a page");
            let length = buffer.len().min(page.len() - within);
            let (now, later) = buffer.split_at_mut(length);
            now.copy_from_slice(&page[within..within + length]);
            buffer = later;
            offset += length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::{ImageError, ReadAt};

    /// A good image with some bytes changed, most of them in its first `header` bytes, and perhaps
    /// its end cut off.
    pub(crate) fn mutated(good: Vec<u8>, header: usize) -> impl Strategy<Value = Vec<u8>> {
        let length = good.len();
        let byte = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
        let place = prop_oneof![9 => 0..header, 1 => 0..length];
        let changes = proptest::collection::vec((place, byte), 0..6);
        let end = prop_oneof![8 => Just(length), 1 => 0..length, 1 => 0..header];
        (changes, end).prop_map(move |(changes, end)| {
            let mut bytes = good.clone();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes.truncate(end);
            bytes
        })
    }

    /// A slice that panics when it is read outside, and knows the largest read.
    #[derive(Debug)]
    pub(crate) struct Watched<'a> {
        bytes: &'a [u8],
        most_at_once: Cell<usize>,
        reads: Cell<usize>,
    }

    impl<'a> Watched<'a> {
        pub(crate) fn new(bytes: &'a [u8]) -> Self {
            Self { bytes, most_at_once: Cell::default(), reads: Cell::default() }
        }

        pub(crate) fn most_at_once(&self) -> usize {
            self.most_at_once.get()
        }

        pub(crate) fn reads(&self) -> usize {
            self.reads.get()
        }
    }

    impl ReadAt for Watched<'_> {
        fn len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
            self.most_at_once.set(self.most_at_once.get().max(buffer.len()));
            self.reads.set(self.reads.get() + 1);
            self.bytes.read_at(offset, buffer)
        }
    }
}
