//! The objects of a store: its directories, walked.

use std::collections::VecDeque;

use super::faults::Fault;
use super::packets::{Attributes, Reply, Request, status};
use super::{Listed, Session};
use crate::store::LISTED_MAX;
use crate::store::names::{PARTS_MAX, is_name, is_temporary, leads_to};

/// How many answers with names of one directory are on their way at once.
const ANSWERS_MAX: usize = 8;

/// Types of files in their modes.
const TYPE_MASK: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// What is in a directory.
type Entries = Vec<(String, Attributes)>;

/// What was found in all directories.
#[derive(Default)]
struct Found {
    objects: Vec<Listed>,
    /// Names of files that uploads have left, and when those were written.
    leftovers: Vec<(String, Option<u32>)>,
}

impl Session<'_> {
    /// All objects whose names begin with `prefix`, ascending.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Listed>, Fault> {
        let mut objects = self.walk(prefix)?.objects;
        objects.sort_unstable();
        objects.dedup();
        Ok(objects)
    }

    /// Removes files with temporary names that are as old as `until`; says how many.
    pub(super) fn remove_leftovers(&self, until: i64) -> Result<usize, Fault> {
        let is_old = |written: Option<u32>| written.is_some_and(|written| i64::from(written) <= until);
        let mut removed = 0;
        for (name, _) in self.walk("")?.leftovers.iter().filter(|(_, written)| is_old(*written)) {
            match self.do_one(&Request::Remove { path: &self.path(name) }) {
                Ok(()) => removed += 1,
                Err(Fault::Status(status::NO_SUCH_FILE)) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(removed)
    }

    fn walk(&self, prefix: &str) -> Result<Found, Fault> {
        let mut found = Found::default();
        let mut directories = vec![String::new()];
        while let Some(directory) = directories.pop() {
            let entries = match self.entries(&directory, LISTED_MAX - found.objects.len()) {
                Err(Fault::Status(status::NO_SUCH_FILE | status::NO_SUCH_PATH)) if directory.is_empty() => {
                    return Err(Fault::NoBase);
                }
                // Removed in between.
                Err(Fault::Status(status::NO_SUCH_FILE | status::NO_SUCH_PATH)) => continue,
                entries => entries?,
            };
            for (file_name, attributes) in entries {
                let is_left_over = is_temporary(&file_name);
                let name = if directory.is_empty() { file_name } else { format!("{directory}/{file_name}") };
                if !is_left_over && !is_name(&name) {
                    continue;
                }
                let Some(Attributes { size, mode: Some(mode), written }) = self.known(&name, attributes)? else {
                    continue;
                };
                match (mode & TYPE_MASK, size) {
                    (REGULAR, _) if is_left_over => found.leftovers.push((name, written)),
                    (REGULAR, Some(len)) if name.starts_with(prefix) => found.objects.push(Listed { name, len }),
                    (DIRECTORY, _)
                        if !is_left_over && leads_to(&name, prefix) && name.split('/').count() < PARTS_MAX =>
                    {
                        directories.push(name);
                    }
                    _ => {}
                }
                if found.objects.len().max(found.leftovers.len()).max(directories.len()) >= LISTED_MAX {
                    return Err(Fault::TooMany);
                }
            }
        }
        Ok(found)
    }

    /// What is known about a file, asked for where the directory does not tell.
    fn known(&self, name: &str, attributes: Attributes) -> Result<Option<Attributes>, Fault> {
        if attributes.mode.is_some() && attributes.size.is_some() {
            return Ok(Some(attributes));
        }
        let path = self.path(name);
        let ticket = self.send(&Request::Lstat { path: &path })?;
        self.wait_attributes(&ticket)
    }

    /// What is in a directory, at most `most`; names that are not UTF-8 are no objects.
    fn entries(&self, directory: &str, most: usize) -> Result<Entries, Fault> {
        let path = if directory.is_empty() { self.base.to_owned() } else { self.path(directory) };
        let opened = self.send(&Request::OpenDirectory { path: &path })?;
        let handle = self.wait_handle(&opened)?;
        let entries = self.read_entries(&handle, most);
        self.send(&Request::Close { handle: &handle })?;
        entries
    }

    fn read_entries(&self, handle: &[u8], most: usize) -> Result<Entries, Fault> {
        let mut entries = Vec::new();
        let mut on_the_way = VecDeque::new();
        // Few at first: most directories are read by two.
        let mut at_once = 2;
        loop {
            while on_the_way.len() < at_once {
                on_the_way.push_back(self.send(&Request::ReadDirectory { handle })?);
            }
            let Some(ticket) = on_the_way.pop_front() else { return Err(Fault::Odd) };
            match self.wait(&ticket)? {
                Reply::Names(names) => {
                    if entries.len() + names.len() > most {
                        return Err(Fault::TooMany);
                    }
                    let known = |(name, attributes)| Some((String::from_utf8(name).ok()?, attributes));
                    entries.extend(names.into_iter().filter_map(known));
                    at_once = ANSWERS_MAX;
                }
                Reply::Status { code: status::EOF } => return Ok(entries),
                Reply::Status { code } => return Err(Fault::Status(code)),
                _ => return Err(Fault::Odd),
            }
        }
    }
}
