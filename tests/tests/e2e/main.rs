//! Everything from end to end, in one program, so that tests which wait leave the machine to others.
//!
//! | module | subject |
//! | --- | --- |
//! | [`set_up`] | `init`, `attach`, `--replace`, `demo`; who may read what; what is refused; a database that is damaged before it begins |
//! | [`recording`] | the recorder: kills, crashes, gaps, sealing, the end of a run, wrong clocks, odd nodes; a model, a soak, fire |
//! | [`traces`] | every recorded trace: played, played with trouble in the middle, and its statements replayed in every way |
//! | [`trouble`] | the backup's place fails, hangs, is full or gone: refusals, waiting, the spool; the file system that fails on request |
//! | [`reading`] | the mount, `restore`, `preflight`, `versions`, `show`, `diff`, `find`; a log damaged in the middle |
//! | [`checking`] | `verify`, `status`, `backup-status`; files that rot, `repair` |
//! | [`python`] | `import` and `export`: files and nodes of the Python plugin |
//! | [`operating`] | how the command line behaves, the mount as a service, compaction |
//! | [`offsite`] | off-site copies: shipped, read, restored, after a disaster too; directories, buckets, SFTP servers; bad input |
//! | [`project`] | documents, floors of the code, the Debian package |
//!
//! `cargo test -p tests --test e2e recording::model` runs one of them. Tests share a process: what changes the process
//! (limits, umask, environment, current directory) is done in a child or from outside. Three are programs of their own:
//! `fuzz`, which has its own allocator; `tampering`, which has more threads than everything here; and `hostile`, which records
//! in its own process: a program that another test starts would inherit the lock of the backup until its exec.

mod checking {
    mod rot;
    mod status;
    mod verify;
}

mod offsite {
    mod bad_input;
    mod checks;
    mod copies;
    mod disasters;
    mod goodbye;
    mod idle;
    mod remote;
    mod shipped;
    mod stores;
    mod wait;
}

mod operating {
    mod compact;
    mod manners;
    mod service;
}

mod project {
    mod documents;
    mod layers;
    mod package;
}

mod python {
    mod import;
    mod import_damaged;
    mod import_node;
}

mod reading {
    mod damage;
    mod diff;
    mod find;
    mod follow;
    mod mount;
    mod prefill;
    mod preflight;
    mod restore;
    mod restored_bytes;
    mod show;
    mod versions;
}

mod recording {
    mod clocks;
    mod faults;
    mod heal;
    mod large_write;
    mod model;
    mod odd_nodes;
    mod seal;
    mod soak;
    mod stop;
    mod under_fire;
}

mod set_up {
    mod attach;
    mod bad_input;
    mod damaged_database;
    mod demo;
    mod going_back;
    mod init;
    mod owners;
    mod replace;
}

mod traces {
    mod played;
    mod replay_equivalence;
    mod trouble_traces;
}

mod trouble {
    mod behind;
    mod destination;
    mod disk_full;
    mod fault_fs;
    mod gone;
    mod hangs;
}
