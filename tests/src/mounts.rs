//! A host's own file system: everything of the machine read-only, the checkout hidden, and private memory file systems
//! where programs write. No two hosts share a writable file or a socket.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

/// Where a host sees the programs.
pub const PROGRAMS: &str = "/run/isthmus/bin";
/// Where a host sees the checkout's `deploy`.
pub const DEPLOY: &str = "/run/isthmus/deploy";
/// Home of a host's commands.
pub const HOME: &str = "/run/home";

/// Directories that are private and writable.
const PRIVATE: [&str; 6] = ["/run", "/tmp", "/var/lib", "/var/log", "/var/tmp", "/dev/shm"];

/// What a host sees of the checkout, and the files that say who it is.
#[derive(Debug)]
pub struct View<'a> {
    /// Shown at [`PROGRAMS`].
    pub programs: &'a Path,
    /// Shown at [`DEPLOY`].
    pub deploy: &'a Path,
    /// Shown empty.
    pub hidden: &'a [PathBuf],
    /// Files of `/etc` and what they say.
    pub etc: &'a [(&'a str, String)],
}

/// Makes the calling process's mount namespace private in this way.
///
/// # Errors
/// Naming the mount that failed.
pub fn isolate(view: &View<'_>) -> anyhow::Result<()> {
    // Held open: the places are hidden by what follows.
    let path_only = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let hold = |path: &Path| {
        open(path, path_only, Mode::empty()).with_context(|| format!("{} cannot be opened", path.display()))
    };
    let (programs, deploy) = (hold(view.programs)?, hold(view.deploy)?);
    let etc: Vec<(PathBuf, &String)> = view
        .etc
        .iter()
        .filter_map(|(name, text)| Some((fs::canonicalize(Path::new("/etc").join(name)).ok()?, text)))
        .collect();

    make_everything_read_only()?;
    for path in PRIVATE {
        if Path::new(path).is_dir() {
            memory(Path::new(path), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=0755")?;
        }
    }
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    mount(Some("devpts"), "/dev/pts", Some("devpts"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, options)
        .context("devpts on /dev/pts")?;
    for path in view.hidden {
        if path.is_dir() {
            memory(path, MsFlags::MS_RDONLY, "mode=0555,size=4k")?;
        }
    }
    for (held, target) in [(&programs, PROGRAMS), (&deploy, DEPLOY)] {
        fs::create_dir_all(target).with_context(|| target.to_string())?;
        bind(Path::new(&format!("/proc/self/fd/{}", held.as_raw_fd())), Path::new(target))?;
    }
    for (index, (path, text)) in etc.iter().enumerate() {
        let own = PathBuf::from(format!("/run/isthmus/etc-{index}"));
        fs::write(&own, text).with_context(|| own.display().to_string())?;
        // A link into /run (systemd-resolved) now points to where nothing is.
        if path.starts_with("/run") {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
            }
            fs::write(path, text).with_context(|| path.display().to_string())?;
        } else {
            bind(&own, path)?;
        }
    }
    fs::create_dir_all(HOME).context(HOME)?;
    for directory in ["/run/lock", "/var/lib/isthmus", "/var/log/isthmus"] {
        fs::create_dir_all(directory).context(directory)?;
    }
    std::env::set_current_dir(HOME).context(HOME)
}

fn memory(at: &Path, flags: MsFlags, options: &str) -> anyhow::Result<()> {
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options))
        .with_context(|| format!("tmpfs on {}", at.display()))
}

fn bind(from: &Path, to: &Path) -> anyhow::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("{} on {}", from.display(), to.display()))
}

/// Remounts every mount, this namespace's own `/proc` excepted.
fn make_everything_read_only() -> anyhow::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (Some(point), Some(options)) = (fields.get(4), fields.get(5)) else { continue };
        let point = unescape(point);
        if point == "/proc" || point.starts_with("/proc/") {
            continue;
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept_flags(options);
        match mount(None::<&str>, point.as_str(), None::<&str>, flags, None::<&str>) {
            Ok(()) => {}
            // Hidden below another mount: nobody reaches it.
            Err(nix::Error::ENOENT | nix::Error::EINVAL | nix::Error::ENOTDIR) => {}
            // A directory that even root here may not look into, such as another user's FUSE mount.
            Err(nix::Error::EACCES) => {}
            Err(error) => {
                return Err(std::io::Error::from(error))
                    .with_context(|| format!("{point} cannot be made read-only"));
            }
        }
    }
    Ok(())
}

/// The flags that a user namespace must not drop.
fn kept_flags(options: &str) -> MsFlags {
    options
        .split(',')
        .map(|option| match option {
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noexec" => MsFlags::MS_NOEXEC,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            _ => MsFlags::empty(),
        })
        .fold(MsFlags::empty(), MsFlags::union)
}

/// mountinfo writes blanks and backslashes as `\NNN`, octal.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/plain"), "/plain");
    }
}
