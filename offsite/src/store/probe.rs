//! [`probe_conditional_put`]: whether a store refuses a second object under the same name.

use super::{Put, Store, StoreError};

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
    let mut put = store.put_new(name, b"probe")?;
    if put == Put::Stored && !store.refuses_conditions() {
        put = store.put_new(name, b"another probe")?;
    }
    Ok(match put {
        _ if store.refuses_conditions() => ConditionalPut::Refused,
        Put::Exists => ConditionalPut::Enforced,
        Put::Stored => ConditionalPut::Ignored,
    })
}
