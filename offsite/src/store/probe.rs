//! [`probe_conditional_put`]: whether a store refuses a second object under the same name.

use super::{Failure, Put, Store, StoreError};

/// What a store does with an upload that must not replace anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionalPut {
    /// A name that is taken is refused.
    Enforced,
    /// The condition is ignored: the second object takes the place of the first.
    Ignored,
    /// Uploads with a condition are refused altogether.
    Refused,
}

/// Stores two objects under `name`, which should be new and of no use otherwise, and says what became of the second. It
/// stays there: the node need not be allowed to delete. A name that exists already serves as well.
///
/// # Errors
/// When the store fails in another way than by refusing the condition.
pub fn probe_conditional_put(store: &dyn Store, name: &str) -> Result<ConditionalPut, StoreError> {
    let first = match store.put_new(name, b"probe 1") {
        Ok(put) => put,
        // Without rights it refuses this, too.
        Err(error) if error.failure == Failure::Protocol => {
            store.replace(name, b"probe 1")?;
            return Ok(ConditionalPut::Refused);
        }
        Err(error) => return Err(error),
    };
    if first == Put::Exists {
        return Ok(ConditionalPut::Enforced);
    }
    match store.put_new(name, b"probe 2")? {
        Put::Exists => Ok(ConditionalPut::Enforced),
        Put::Stored => Ok(ConditionalPut::Ignored),
    }
}
