//! Transactions: conditions on revisions, then puts and deletes at one new revision.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Entry, Revision};

/// All compares must hold, then all operations happen at one revision.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Conditions.
    pub compares: Vec<Compare>,
    /// What is done if they hold.
    pub ops: Vec<Op>,
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// Its value was written at this revision; `None` means the key is absent.
    pub modified: Option<Revision>,
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Op {
    /// Writes a value.
    Put {
        /// The key.
        key: String,
        /// What is written.
        value: Value,
    },
    /// Removes a key; nothing happens if it is absent.
    Delete {
        /// The key.
        key: String,
    },
}

/// Bytes to store, and where the revision goes into them.
///
/// The revision is known only at commit, and readers want it inside the value: the store writes its digits at
/// `stamp`, once, so that nobody serializes an object again to show its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes without the revision.
    pub bytes: Bytes,
    /// Offset at which the revision's decimal digits are inserted.
    pub stamp: Option<usize>,
}

impl Value {
    /// Bytes stored as they are.
    pub fn plain(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), stamp: None }
    }

    /// The bytes with the revision in place. An offset past the end appends.
    pub fn stamped(&self, revision: Revision) -> Bytes {
        let Some(offset) = self.stamp else { return self.bytes.clone() };
        let offset = offset.min(self.bytes.len());
        let digits = revision.to_string();
        let mut out = BytesMut::with_capacity(self.bytes.len() + digits.len());
        out.put_slice(&self.bytes[..offset]);
        out.put_slice(digits.as_bytes());
        out.put_slice(&self.bytes[offset..]);
        out.freeze()
    }
}

impl Txn {
    /// A transaction that writes a key which must not exist.
    pub fn create(key: impl Into<String>, value: Value) -> Self {
        Self::default().expect(key, None).put_last(value)
    }

    /// Adds a condition.
    #[must_use]
    pub fn expect(mut self, key: impl Into<String>, modified: Option<Revision>) -> Self {
        self.compares.push(Compare { key: key.into(), modified });
        self
    }

    /// Adds a put.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: Value) -> Self {
        self.ops.push(Op::Put { key: key.into(), value });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    fn put_last(self, value: Value) -> Self {
        let key = self.compares.last().map(|compare| compare.key.clone()).unwrap_or_default();
        self.put(key, value)
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Committed {
        /// The new revision.
        revision: Revision,
        /// The entries as written, one per put, in order.
        written: Vec<Entry>,
    },
    /// A compare did not hold; nothing happened.
    Conflict {
        /// The key of the first compare that failed.
        key: String,
        /// What stands there.
        current: Option<Entry>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_stamped_at_its_place() {
        let value = Value { bytes: Bytes::from_static(b"{\"v\":\"\",\"x\":1}"), stamp: Some(6) };
        assert_eq!(&value.stamped(Revision(421))[..], b"{\"v\":\"421\",\"x\":1}");
        assert_eq!(&Value::plain("abc").stamped(Revision(9))[..], b"abc");
    }
}
