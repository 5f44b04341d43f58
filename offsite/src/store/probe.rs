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

impl ConditionalPut {
    /// Its name in a status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }
}

/// Stores a new object twice, and says what became of the second upload. The object stays there: the node need not be allowed to
/// delete.
///
/// # Errors
/// When the store fails in another way than by refusing the condition.
pub fn probe_conditional_put(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<ConditionalPut, StoreError> {
    let mut put = store.put_new(name, bytes)?;
    if put == Put::Stored && !store.refuses_conditions() {
        put = store.put_new(name, bytes)?;
    }
    Ok(match put {
        _ if store.refuses_conditions() => ConditionalPut::Refused,
        Put::Exists => ConditionalPut::Enforced,
        Put::Stored => ConditionalPut::Ignored,
    })
}
