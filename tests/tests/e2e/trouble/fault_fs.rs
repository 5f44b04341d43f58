//! The file system that fails on request: otherwise it is as the directory below it, and each fault reaches a real process.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tempfile::TempDir;
use tests::cli::{self, Ran};
use tests::fault_fs::{Caching, Call, Effect, FaultFs, Faults, Names, Rule};
use tests::skip::skipped;
use tests::wait::until;

const TIMEOUT: Duration = Duration::from_secs(20);

struct Disk {
    // Unmounted before the directories go.
    fs: FaultFs,
    directories: TempDir,
}

impl Disk {
    fn new(caching: Caching) -> Option<Self> {
        let directories = tempfile::tempdir().expect("a directory");
        let [below, above] = ["below", "above"].map(|name| directories.path().join(name));
        for directory in [&below, &above] {
            fs::create_dir(directory).expect("a directory");
        }
        match FaultFs::mount(&below, &above, caching) {
            Ok(fs) => Some(Self { fs, directories }),
            Err(error) => {
                skipped(format_args!("no file system can be mounted here ({error}), faults are not tested"));
                None
            }
        }
    }

    fn below(&self) -> PathBuf {
        self.directories.path().join("below")
    }

    fn faults(&self) -> &Faults {
        self.fs.faults()
    }

    fn fail(&self, call: Call, errno: Errno) {
        self.faults().add(Rule::new(Effect::Fail(errno)).calls(&[call]));
    }

    /// Runs a script in it.
    fn sh(&self, script: &str) -> Ran {
        cli::run(shell(script).current_dir(self.fs.path()))
    }

    fn sh_in_background(&self, script: &str) -> Child {
        let script = format!("cd {}; {script}", self.fs.path().display());
        shell(&script).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell")
    }
}

fn shell(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-ec", script]).env("LC_ALL", "C");
    shell
}

fn both(test: impl Fn(&Disk)) {
    for caching in [Caching::Kernel, Caching::Nothing] {
        if let Some(disk) = Disk::new(caching) {
            test(&disk);
        }
    }
}

#[test]
fn plain_tools_find_it_like_the_directory_below() {
    const SCRIPT: &str = "
        umask 022
        dd if=/dev/urandom of=random bs=70001 count=30 conv=fsync
        cp random copy; cmp random copy
        cp -p copy preserved; cmp copy preserved; touch -d '2020-02-02 02:02:02.123456' preserved
        mkdir directory; mv copy directory/moved; cmp random directory/moved; mv directory/moved copy
        echo one > lines; echo two >> lines; test \"$(cat lines)\" = \"$(printf 'one\\ntwo')\"
        if (set -C; echo three > lines) 2> /dev/null; then exit 1; fi
        truncate -s 100 copy; truncate -s 5000 copy; test $(stat -c %s copy) = 5000
        cmp -n 100 copy random; test $(tail -c +101 copy | tr -d '\\0' | wc -c) = 0
        echo new > replacing; mv replacing lines; test $(cat lines) = new
        echo private > private; chmod 600 private; (umask 077; echo > private2)
        exec 3> unlinked; rm unlinked; echo still here >&3; test $(stat -L -c %h /dev/fd/3) = 0; exec 3>&-
        fallocate -l 10000 allocated; test $(stat -c %s allocated) = 10000
        rmdir directory; sync .; sync random
        flock -n random true; df . > /dev/null; ls -a > /dev/null
    ";
    const LISTING: &str = "ls -ln --full-time; stat -f -c '%b %s %S %l' .; for f in *; do cksum $f; done";
    both(|disk| {
        disk.sh(SCRIPT).expect_done("the script");
        let above = disk.sh(LISTING).expect_done("a listing");
        let below = cli::run(shell(LISTING).current_dir(disk.below())).expect_done("a listing");
        assert_eq!(above.stdout, below.stdout);
        assert!(above.stdout.contains("preserved") && above.stdout.contains("2020-02-02 02:02:02.123456"), "{above:?}");
        let of = |name: &str| fs::metadata(disk.fs.path().join(name)).expect("a file").mode() & 0o7777;
        assert_eq!([of("random"), of("private"), of("private2")], [0o644, 0o600, 0o600]);
        // What comes to be below shows at once.
        fs::write(disk.below().join("from below"), "x").expect("a file");
        assert_eq!(fs::read(disk.fs.path().join("from below")).expect("a file"), b"x");
    });
}

#[test]
fn large_directories_are_listed_whole() {
    let Some(disk) = Disk::new(Caching::Kernel) else { return };
    let mut expected: Vec<String> =
        (0..2000).map(|number| format!("a file with a rather long name {number:05}")).collect();
    for name in &expected {
        fs::write(disk.below().join(name), name).expect("a file");
    }
    let mut found: Vec<String> = fs::read_dir(disk.fs.path())
        .expect("a listing")
        .map(|entry| entry.expect("a name").file_name().into_string().expect("UTF-8"))
        .collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_lock_keeps_others_out_until_it_is_given_up() {
    both(|disk| {
        let holder = fs::File::create(disk.fs.path().join("LOCK")).expect("a file");
        holder.try_lock().expect("nobody holds it");
        assert_eq!(disk.sh("flock -n LOCK true").code, 1);
        drop(holder);
        disk.sh("flock -n LOCK true").expect_done("a free lock");
    });
}

#[test]
fn failures_reach_a_process_at_the_call_they_are_meant_for() {
    let cases = [
        (Call::Write, Errno::NOSPC, "dd if=there of=file", "No space left"),
        (Call::Fsync, Errno::IO, "dd if=/dev/zero of=file bs=10 count=1 conv=fsync", "Input/output error"),
        (Call::FsyncDir, Errno::IO, "sync .", "Input/output error"),
        (Call::Create, Errno::DQUOT, "touch file", "quota exceeded"),
        (Call::Open, Errno::IO, "cat there", "Input/output error"),
        (Call::Read, Errno::IO, "cat there", "Input/output error"),
        (Call::Rename, Errno::IO, "mv there gone", "Input/output error"),
        (Call::Unlink, Errno::ROFS, "rm -f there", "Read-only file system"),
        (Call::Truncate, Errno::IO, "truncate -s 1 there", "Input/output error"),
        (Call::SetAttr, Errno::PERM, "chmod 600 there", "Operation not permitted"),
        (Call::Lookup, Errno::IO, "stat there", "Input/output error"),
        (Call::ReadDir, Errno::IO, "ls .", "Input/output error"),
        (Call::OpenDir, Errno::IO, "ls .", "Input/output error"),
        (Call::StatFs, Errno::NOTCONN, "stat -f .", "not connected"),
        (Call::MkDir, Errno::NOSPC, "mkdir directory", "No space left"),
        (Call::RmDir, Errno::IO, "rmdir empty", "Input/output error"),
        (Call::Allocate, Errno::NOSPC, "fallocate -l 10 there", "No space left"),
        (Call::Flush, Errno::DQUOT, "cp there copied", "quota exceeded"),
    ];
    both(|disk| {
        fs::write(disk.below().join("there"), "there").expect("a file");
        fs::create_dir(disk.below().join("empty")).expect("a directory");
        for (call, errno, script, said) in &cases {
            let before = disk.faults().count(*call);
            disk.fail(*call, *errno);
            let ran = disk.sh(script);
            disk.faults().heal();
            assert!(ran.code != 0 && ran.stderr.contains(said), "{call:?}: {ran:?}");
            assert!(disk.faults().count(*call) > before, "{call:?}");
            disk.sh("cat there; rm -f file copied").expect_done("all is well again");
        }
        // No script gets as far as this: the shell's own directory would fail first.
        let open = fs::File::open(disk.fs.path().join("there")).expect("a file");
        disk.fail(Call::GetAttr, Errno::STALE);
        let error = open.metadata().expect_err("a failed fstat");
        assert_eq!(error.raw_os_error(), Some(Errno::STALE.raw_os_error()));
        assert_eq!(fs::read(disk.below().join("there")).expect("a file"), b"there");
    });
}

#[test]
fn only_the_chosen_file_fails_and_only_from_the_chosen_write_on() {
    both(|disk| {
        let rule = Rule::new(Effect::Fail(Errno::IO)).calls(&[Call::Write]).names(Names::Ending(".seg".to_owned()));
        let rule = disk.faults().add(rule.after(3).times(1));
        let dd = |name: &str| disk.sh(&format!("dd if=/dev/zero of={name} bs=4096 count=6"));
        dd("other").expect_done("another file");
        let failed = dd("a.seg");
        assert!(failed.code == 1 && failed.stderr.contains("3+0 records out"), "{failed:?}");
        assert_eq!(disk.faults().fired(rule), 1);
        dd("a.seg").expect_done("once is all");
        assert_eq!(fs::metadata(disk.below().join("a.seg")).expect("a file").len(), 6 * 4096);
    });
}

#[test]
fn a_name_follows_its_file() {
    let Some(disk) = Disk::new(Caching::Kernel) else { return };
    let rule = Rule::new(Effect::Fail(Errno::IO)).calls(&[Call::Write]).names(Names::Exactly("new".to_owned()));
    let mut file = fs::File::create(disk.fs.path().join("old")).expect("a file");
    disk.faults().add(rule);
    file.write_all(b"1").expect("still the old name");
    fs::rename(disk.fs.path().join("old"), disk.fs.path().join("new")).expect("a rename");
    assert_eq!(file.write_all(b"2").expect_err("the new name").raw_os_error(), Some(Errno::IO.raw_os_error()));
}

#[test]
fn what_failed_to_be_written_is_not_read_back() {
    both(|disk| {
        let path = disk.fs.path().join("file");
        fs::write(&path, vec![b'a'; 10_000]).expect("a file");
        let mut file = fs::File::options().read(true).write(true).open(&path).expect("a file");
        let mut all = Vec::new();
        file.read_to_end(&mut all).expect("reading");
        disk.fail(Call::Write, Errno::IO);
        file.write_all_at(&[b'b'; 9000], 500).expect_err("it fails");
        disk.faults().heal();
        file.seek(SeekFrom::Start(0)).expect("a seek");
        let mut again = Vec::new();
        file.read_to_end(&mut again).expect("reading");
        assert!(again == all, "bytes that nobody stored");
    });
}

#[test]
fn a_delay_delays_and_a_lost_answer_hides_what_was_done() {
    both(|disk| {
        fs::write(disk.below().join("file"), "x").expect("a file");
        let delay = Duration::from_millis(300);
        disk.faults().add(Rule::new(Effect::Delay(delay)).calls(&[Call::Fsync]));
        let began = Instant::now();
        disk.sh("sync file").expect_done("a slow sync");
        assert!(began.elapsed() >= delay);
        disk.faults().add(Rule::new(Effect::FailOnceDone(Errno::IO)).calls(&[Call::Rename]));
        let [from, to] = ["file", "renamed"].map(|name| disk.fs.path().join(name));
        let error = fs::rename(from, to).expect_err("a failed rename");
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
        assert!(disk.below().join("renamed").exists() && !disk.below().join("file").exists());
    });
}

#[test]
fn one_call_hangs_and_all_others_go_on_until_it_is_let_go() {
    both(|disk| {
        let hang = Rule::new(Effect::Hang).calls(&[Call::Write]).names(Names::Exactly("hanging".to_owned()));
        let hang = disk.faults().add(hang.times(1));
        // More than there are threads for the kernel.
        let more = Rule::new(Effect::Hang).calls(&[Call::Read]).names(Names::Beginning("read".to_owned()));
        let more = disk.faults().add(more);
        let mut hanging = disk.sh_in_background("echo written > hanging");
        let mut readers: Vec<Child> = (0..8)
            .map(|number| {
                fs::write(disk.below().join(format!("read{number}")), "x").expect("a file");
                disk.sh_in_background(&format!("cat read{number}"))
            })
            .collect();
        assert!(until(TIMEOUT, || disk.faults().hanging() == 9), "{}", disk.faults().hanging());
        disk.sh("echo x > other; cat other; sync other; stat hanging; ls -l").expect_done("everything else");
        assert!(hanging.try_wait().expect("a child").is_none());
        disk.faults().remove(hang);
        assert!(hanging.wait().expect("a child").success());
        assert_eq!(fs::read(disk.below().join("hanging")).expect("a file"), b"written\n");
        assert_eq!(disk.faults().hanging(), 8);
        disk.faults().remove(more);
        for reader in &mut readers {
            assert!(reader.wait().expect("a child").success());
        }
        assert_eq!(disk.faults().hanging(), 0);
    });
}

#[test]
fn everything_can_fail_and_be_well_again() {
    both(|disk| {
        fs::write(disk.below().join("file"), "x").expect("a file");
        let all = disk.faults().fail_everything(Errno::IO);
        // Not from within: a shell does not even get there.
        let at = disk.fs.path().display();
        let scripts = [format!("cat {at}/file"), format!("ls {at}"), format!("> {at}/new"), format!("df {at}")];
        for script in &scripts {
            assert_ne!(cli::run(&mut shell(script)).code, 0, "{script}");
        }
        disk.faults().remove(all);
        for script in &scripts {
            cli::run(&mut shell(script)).expect_done("all is well again");
        }
    });
}

#[test]
fn the_disk_can_look_full() {
    let Some(disk) = Disk::new(Caching::Kernel) else { return };
    let free = || rustix::fs::statvfs(disk.fs.path()).map(|it| it.f_bavail * it.f_frsize).expect("statvfs");
    let truly = free();
    disk.faults().pretend_free_bytes(1 << 20);
    assert_eq!(free(), 1 << 20);
    disk.faults().heal();
    assert!(free() > 1 << 20 && free().abs_diff(truly) < truly / 2, "{truly}");
}

#[test]
fn it_goes_away_from_under_processes_that_hang_or_use_it() {
    both_owned(|disk| {
        let at = disk.fs.path().to_owned();
        disk.faults().add(Rule::new(Effect::Hang).calls(&[Call::Fsync]));
        let mut hanging = disk.sh_in_background("echo x > file; exec sync file");
        let mut inside = disk.sh_in_background("exec 3< /dev/null; echo > inside; exec sleep 60");
        assert!(until(TIMEOUT, || disk.faults().hanging() == 1 && at.join("inside").exists()));
        let Disk { fs, directories: _kept } = disk;
        let began = Instant::now();
        drop(fs);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // It got its answer or lost its file system: it ends either way.
        hanging.wait().expect("a child");
        assert!(!is_mounted(&at));
        assert!(inside.try_wait().expect("a child").is_none(), "it stands in a directory that is gone");
        inside.kill().and_then(|()| inside.wait()).expect("a child");
    });
}

fn both_owned(test: impl Fn(Disk)) {
    for caching in [Caching::Kernel, Caching::Nothing] {
        if let Some(disk) = Disk::new(caching) {
            test(disk);
        }
    }
}

fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the list of mounts");
    mounts.lines().any(|line| line.split(' ').nth(1) == at.to_str())
}
