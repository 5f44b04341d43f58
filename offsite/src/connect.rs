//! The first steps with a store: what it has is found out, and a copy is begun.

use std::path::Path;
use std::sync::Arc;

use common::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::copy_error::CopyError;
use crate::description::{Description, FORMAT, SealKind, from_json, to_json};
use crate::keys::key_file::{KEY_FILES, KeyFile, Wrapper};
use crate::keys::master_key::MasterKey;
use crate::objects::ID;
use crate::store::{Credentials, Failure, Proxy, Store, StoreUrl};

/// Microseconds of a second.
const MICROS: i64 = 1_000_000;

/// Opens the store of a URL: a bucket with the credentials in a file, or those of the environment.
///
/// # Errors
/// When they cannot be read, or do not fit the URL. Nothing was connected to.
pub fn open_store(
    url: &StoreUrl,
    credentials: Option<&Path>,
    proxy: Option<&str>,
) -> Result<Arc<dyn Store>, CopyError> {
    let unusable = |reason: String| CopyError::Unusable { url: url.to_string(), reason };
    let credentials = match (url, credentials) {
        (StoreUrl::S3(_), Some(path)) => Some(Credentials::read(path).map_err(|error| unusable(error.to_string()))?),
        (StoreUrl::S3(_), None) => Credentials::from_environment().map_err(|error| unusable(error.to_string()))?,
        _ => None,
    };
    let proxy = proxy.map(str::parse::<Proxy>).transpose().map_err(|error| unusable(error.to_string()))?;
    let store = crate::store::open(url, credentials, proxy).map_err(|error| unusable(error.to_string()))?;
    Ok(Arc::from(store))
}

/// What a description of any format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u16,
}

/// What the copy in a store is; `None` when the store is empty.
///
/// # Errors
/// [`CopyError::NotACopy`] when something else is there; when the store cannot be read.
pub fn describe(store: &dyn Store) -> Result<Option<Description>, CopyError> {
    let not_a_description = match store.get(ID, None) {
        // First: a later format may have other fields.
        Ok(bytes) => match from_json::<AnyFormat>(ID, &bytes) {
            Ok(AnyFormat { format: FORMAT }) => return Ok(Some(from_json(ID, &bytes)?)),
            Ok(AnyFormat { format: version }) => {
                return Err(CopyError::NewerFormat { name: ID.to_owned(), version });
            }
            Err(error) => error,
        },
        Err(error) if error.failure == Failure::NotFound => CopyError::NotACopy { url: store.url() },
        Err(error) => return Err(error.into()),
    };
    // The description comes last: a beginning that was cut off has keys, and may have a part of it.
    let is_begun = |name: &str| name.starts_with(KEY_FILES) || name == ID;
    if store.list("")?.iter().all(|listed| is_begun(&listed.name)) { Ok(None) } else { Err(not_a_description) }
}

/// What the copy in a store is, which must be there.
///
/// # Errors
/// [`CopyError::NoCopy`] when it is not; otherwise as [`describe`].
pub fn expect_copy(store: &dyn Store) -> Result<Description, CopyError> {
    describe(store)?.ok_or_else(|| CopyError::NoCopy { url: store.url() })
}

/// The key files of a copy.
///
/// # Errors
/// When they cannot be read. One that is damaged is passed over, with a warning: another one may do.
pub fn key_files(store: &dyn Store) -> Result<Vec<KeyFile>, CopyError> {
    let mut files = Vec::new();
    for listed in store.list(KEY_FILES)? {
        match KeyFile::decode(&listed.name, &store.get(&listed.name, None)?) {
            Ok(file) => files.push(file),
            Err(error) => log::warn!("{error}"),
        }
    }
    Ok(files)
}

/// Begins a copy of a backup in an empty store. The key file of a key that the node can unlock is stored before the description.
///
/// # Errors
/// When the store refuses.
pub fn begin(
    store: &dyn Store,
    backup: Uuid,
    seal: SealKind,
    keys: Option<&KeyFile>,
) -> Result<Description, CopyError> {
    if let Some(keys) = keys {
        store.put_new(&keys.object_name(), &keys.encode())?;
    }
    let description = Description { format: FORMAT, copy: Uuid::new_v4(), backup, seal };
    // Nothing builds on it yet.
    store.replace(ID, &to_json(ID, &description)?)?;
    Ok(description)
}

/// A key file of a new key, wrapped in these ways.
///
/// # Errors
/// When there are no random bytes, or too many ways.
pub fn new_key(wrappers: &[Wrapper<'_>]) -> Result<(MasterKey, KeyFile), CopyError> {
    let failed = |reason: String| CopyError::NoKey { reason };
    let key = MasterKey::generate().map_err(|error| failed(error.to_string()))?;
    let seconds = u64::try_from(Timestamp::now().as_micros() / MICROS).unwrap_or(0);
    let mut file = KeyFile::new(&key, seconds);
    for wrapper in wrappers {
        file.add_wrap(&key, *wrapper).map_err(|error| failed(error.to_string()))?;
    }
    Ok((key, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_store::MemoryStore;

    #[test]
    fn a_beginning_that_was_cut_off_is_begun_again() {
        let (_, keys) = new_key(&[]).unwrap();
        for len in 0..60 {
            let store = MemoryStore::default();
            store.set_conditional(true);
            let first = begin(&store, Uuid::nil(), SealKind::Node, Some(&keys)).unwrap();
            assert_eq!(describe(&store).unwrap().map(|found| found.copy), Some(first.copy));
            store.tamper(|objects| objects.entry(ID.to_owned()).or_default()[len..].fill(0));
            assert!(describe(&store).unwrap().is_none(), "{len}");
            let again = begin(&store, Uuid::nil(), SealKind::Node, Some(&keys)).unwrap();
            assert_eq!(expect_copy(&store).unwrap().copy, again.copy);
            // A copy that has more than a beginning is none to begin anew.
            store.tamper(|objects| objects.entry(ID.to_owned()).or_default()[len..].fill(0));
            store.put_new("m/0000000000", b"x").unwrap();
            assert!(matches!(describe(&store), Err(CopyError::NotUnderstood { .. })), "{len}");
        }
    }
}
