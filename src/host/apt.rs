// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packages from Debian's archive, through an apt root of our own in the cache: nothing of the system is changed, no
//! rights are needed, and apt verifies the archive's signature (apt-secure(8)).
//!
//! The mirror and the proxy are those that the system's apt uses. What is downloaded is compared with the signed
//! index, and with `images/versions.toml` where that has the same version.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use super::command::{self, Ended};
use super::files::{self, Lock};
use super::tools;
use super::versions::{Standing, Versions};
use super::{HostError, command::indented};
use crate::event::EventSink;

/// Verifies trixie and trixie-backports on Debian 12 and 13 alike.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What is fetched from. The last one wins (QEMU 11, kernels 7.2 and 7.3).
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];
/// The same for packages of another architecture, of which only the guest's busybox is one. Lists that are not needed cannot
/// be in the way: that of trixie-backports was seen not to fit its signed size.
const FOREIGN_SUITES: [&str; 1] = ["trixie"];
/// Package lists younger than this are not fetched again.
const LISTS_AGE: Duration = Duration::from_secs(6 * 3600);

/// A package that was fetched and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deb {
    /// Package name.
    pub name: String,
    /// Debian version, with epoch.
    pub version: String,
    /// Architecture, or `all`.
    pub arch: String,
    /// Where it is. The caller may remove it when it is unpacked.
    pub path: PathBuf,
    /// Its sha256.
    pub sha256: String,
}

/// What apt would download: a line of `--print-uris`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    name: String,
    version: String,
    arch: String,
    file: String,
    size: u64,
    sha256: Option<String>,
}

/// The private apt root. One process at a time uses it; others wait.
#[derive(Debug)]
pub struct Apt {
    root: PathBuf,
    debs: PathBuf,
    arch: String,
    suites: &'static [&'static str],
    versions: Versions,
    events: EventSink,
    stop: Arc<AtomicBool>,
    _lock: Lock,
}

impl Apt {
    /// Sets the root up in `<cache>/apt`; does not touch the network. `data` has `images/versions.toml`. `foreign`: for
    /// packages of another architecture than the host's, by Debian's name of it; that one has a root of its own.
    pub fn open(
        cache: &Path,
        data: &Path,
        foreign: Option<&str>,
        events: &EventSink,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, HostError> {
        tools::require(&tools::FETCH)?;
        if !Path::new(KEYRING).exists() {
            return Err(HostError::Missing {
                tool: KEYRING.to_owned(),
                package: "debian-archive-keyring",
            });
        }
        let root = match foreign {
            None => cache.join("apt"),
            Some(arch) => cache.join(format!("apt-{arch}")),
        };
        let debs = cache.join("debs");
        let lock = Lock::take(&root.join("lock"), stop, || {
            events.progress(
                "packages",
                "waiting for another vfrace that is fetching",
                None,
            );
        })?;
        let arch = match foreign {
            Some(arch) => arch.to_owned(),
            None => command::output(Command::new("dpkg").arg("--print-architecture"), "dpkg")?
                .trim()
                .to_owned(),
        };
        for dir in [
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/sources.list.d",
            "state/lists/partial",
            "cache/archives/partial",
        ] {
            files::make_dir(&root.join(dir))?;
        }
        files::make_dir(&debs)?;
        files::write_whole(&root.join("state/status"), b"")?;
        let dump = command::output(
            Command::new("apt-config").arg("dump").env("LC_ALL", "C"),
            "apt-config",
        )?;
        let suites: &'static [&'static str] = match foreign {
            None => &SUITES,
            Some(_) => &FOREIGN_SUITES,
        };
        let config = config_text(&root, &arch, suites, &carried(&dump))?;
        files::write_if_changed(&root.join("apt.conf"), config.as_bytes())?;
        let versions = Versions::load(data)?;
        Ok(Self {
            root,
            debs,
            arch,
            suites,
            versions,
            events: events.clone(),
            stop: stop.clone(),
            _lock: lock,
        })
    }

    /// Fetches one package, without what it depends on.
    pub fn fetch(&self, package: &str) -> Result<Deb, HostError> {
        self.update()?;
        let offers = self.offers(&["download", "--print-uris", package], package)?;
        let offers: Vec<Offer> = offers.into_iter().filter(|o| o.name == package).collect();
        self.download(package, offers)?
            .into_iter()
            .next()
            .ok_or_else(|| no_package(package, "apt offers nothing"))
    }

    /// Fetches packages with everything that they depend on, as for an empty system.
    pub fn fetch_closure(&self, package: &str) -> Result<Vec<Deb>, HostError> {
        self.update()?;
        let offers = self.offers(&["install", "--print-uris", "-y", package], package)?;
        self.download(package, offers)
    }

    fn apt_get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8")
            .current_dir(&self.debs);
        command
    }

    fn run(&self, command: &mut Command, idle: impl FnMut()) -> Result<Ended, HostError> {
        command::run(
            command,
            "apt-get",
            Some(&self.root.join("log")),
            &self.stop,
            |_| {},
            idle,
        )
    }

    /// Fetches the package lists, from the first mirror that has them.
    fn update(&self) -> Result<(), HostError> {
        let stamp = self.root.join("updated");
        let age = stamp
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_some_and(|age| age < LISTS_AGE) {
            return Ok(());
        }
        let step = "package lists";
        let mut last = None;
        for mirror in mirrors(&system_sources()) {
            self.events.progress(step, mirror.clone(), None);
            let list = sources_text(&mirror, &self.arch, self.suites);
            files::write_if_changed(&self.root.join("etc/sources.list"), list.as_bytes())?;
            let ended = self.run(
                self.apt_get()
                    .args(["update", "-o", "APT::Update::Error-Mode=any"]),
                || {},
            )?;
            if ended.status.success() {
                files::write_whole(&stamp, b"")?;
                self.events.finished(step, mirror);
                return Ok(());
            }
            last = Some(ended.ok(format!("apt-get update from {mirror}")));
        }
        // Lists of a mirror that is away for the moment are still good: their signature is verified again on use.
        if stamp.exists() {
            self.events
                .finished(step, "no mirror answers; using the lists fetched before");
            return Ok(());
        }
        last.unwrap_or_else(|| {
            let why = "the sources in /etc/apt name no mirror of Debian's main archive: add one";
            Err(no_package("apt", why))
        })
    }

    fn offers(&self, args: &[&str], package: &str) -> Result<Vec<Offer>, HostError> {
        // Not where the packages are: apt leaves out what is in its working directory, whole or not.
        match command::output(self.apt_get().args(args).current_dir(&self.root), "apt-get") {
            Ok(text) => Ok(text.lines().filter_map(parse_offer).collect()),
            Err(HostError::Failed { tail, .. }) => Err(no_package(package, &tail)),
            Err(other) => Err(other),
        }
    }

    fn download(&self, what: &str, offers: Vec<Offer>) -> Result<Vec<Deb>, HostError> {
        let step = format!("download {what}");
        let mut wanted = Vec::new();
        for offer in &offers {
            let path = self.debs.join(&offer.file);
            let there = path.metadata().is_ok_and(|m| m.len() == offer.size);
            if there && offer.sha256.is_some() && files::sha256_file(&path).ok() == offer.sha256 {
                continue;
            }
            files::remove(&path)?;
            wanted.push(offer);
        }
        if !wanted.is_empty() {
            let total: u64 = wanted.iter().map(|o| o.size).sum();
            files::need_space(&self.debs, (total >> 20) + 100)?;
            let paths: Vec<PathBuf> = wanted.iter().map(|o| self.debs.join(&o.file)).collect();
            let mut command = self.apt_get();
            command.arg("download");
            command.args(wanted.iter().map(|o| {
                format!(
                    "{}:{}={}",
                    o.name,
                    plain_arch(&o.arch, &self.arch),
                    o.version
                )
            }));
            self.events.progress(&step, String::new(), Some((0, total)));
            let ended = self.run(&mut command, || {
                let have = paths
                    .iter()
                    .filter_map(|p| p.metadata().ok())
                    .map(|m| m.len())
                    .sum::<u64>();
                self.events.progress(
                    &step,
                    format!("{} of {} MB", have / 1_000_000, total / 1_000_000),
                    Some((have.min(total), total)),
                );
            })?;
            ended.ok(format!("downloading {what}"))?;
            self.events
                .finished(&step, format!("{} MB", total / 1_000_000));
        }
        offers.into_iter().map(|offer| self.verify(offer)).collect()
    }

    fn verify(&self, offer: Offer) -> Result<Deb, HostError> {
        let path = self.debs.join(&offer.file);
        let sha256 = files::sha256_file(&path)?;
        let Offer {
            name,
            version,
            arch,
            ..
        } = offer;
        if let Some(expected) = offer.sha256.filter(|e| *e != sha256) {
            return Err(HostError::Checksum {
                package: name,
                version,
                expected,
                found: sha256,
            });
        }
        let standing = self.versions.check(&name, &version, &arch, &sha256)?;
        if let (Standing::Untested, Some(tested)) = (standing, self.versions.tested(&name)) {
            let note = format!("{version}; vfrace was tested with {tested}");
            self.events.finished(&format!("package {name}"), note);
        }
        Ok(Deb {
            name,
            version,
            arch,
            path,
            sha256,
        })
    }
}

fn no_package(package: &str, tail: &str) -> HostError {
    HostError::NoPackage {
        package: package.to_owned(),
        tail: tail.to_owned(),
    }
}

/// `apt-get download name:all=version` is refused; packages for all architectures are asked for by our own.
fn plain_arch<'a>(arch: &'a str, own: &'a str) -> &'a str {
    if arch == "all" { own } else { arch }
}

/// The text of apt.conf (apt.conf(5)). Everything that apt would take from the system is pointed into `root`.
fn config_text(
    root: &Path,
    arch: &str,
    suites: &[&str],
    carried: &[String],
) -> Result<String, HostError> {
    let dir = root
        .to_str()
        .filter(|s| !s.contains(['"', '\n', ';']))
        .ok_or_else(|| {
            let source = std::io::Error::other(
                "apt cannot take such a path: it has a quote, a semicolon or is not UTF-8",
            );
            files::failed("use", root)(source)
        })?;
    let mut text = format!(
        r#"Dir::Etc "{dir}/etc";
Dir::Etc::Main "{dir}/etc/apt.conf";
Dir::Etc::Parts "{dir}/etc/apt.conf.d";
Dir::Etc::SourceList "{dir}/etc/sources.list";
Dir::Etc::SourceParts "{dir}/etc/sources.list.d";
Dir::Etc::PreferencesParts "{dir}/etc/preferences.d";
Dir::State "{dir}/state";
Dir::State::status "{dir}/state/status";
Dir::Cache "{dir}/cache";
Dir::Log "{dir}/log.d";
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Default-Release "{release}";
Acquire::Languages "none";
"#,
        release = suites.last().unwrap_or(&""),
    );
    for line in carried {
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

/// Of the system's apt configuration, how it reaches the network. Never what would weaken the signature check.
fn carried(dump: &str) -> Vec<String> {
    const KEPT: [&str; 7] = [
        "Acquire::http::",
        "Acquire::https::",
        "Acquire::Retries ",
        "Acquire::ForceIPv",
        "Acquire::Check-Valid-Until ",
        "Acquire::Check-Date ",
        "Acquire::proxy",
    ];
    const NEVER: [&str; 2] = ["Verify-Peer", "Verify-Host"];
    dump.lines()
        .filter(|line| {
            KEPT.iter().any(|key| line.starts_with(key))
                && !NEVER.iter().any(|key| line.contains(key))
        })
        .filter(|line| line.ends_with("\";"))
        .map(str::to_owned)
        .collect()
}

/// The text of sources.list (sources.list(5)).
fn sources_text(mirror: &str, arch: &str, suites: &[&str]) -> String {
    suites
        .iter()
        .map(|suite| format!("deb [arch={arch} signed-by={KEYRING}] {mirror} {suite} main\n"))
        .collect()
}

/// The texts of the system's sources files, one-line and deb822.
fn system_sources() -> Vec<(bool, String)> {
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = std::fs::read_dir("/etc/apt/sources.list.d") {
        let mut more: Vec<PathBuf> = dir.flatten().map(|e| e.path()).collect();
        more.sort();
        paths.extend(more);
    }
    let read = |path: PathBuf| {
        let deb822 = match path.extension()?.to_str()? {
            "sources" => true,
            "list" => false,
            _ => return None,
        };
        Some((deb822, std::fs::read_to_string(path).ok()?))
    };
    paths.into_iter().filter_map(read).collect()
}

/// Mirrors to try, best first: those of the system that have Debian's main archive, then Debian's own.
fn mirrors(sources: &[(bool, String)]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |uri: &str, suites: &str| {
        let uri = uri.trim_end_matches('/');
        // A snapshot holds one day's suites, possibly of a time before those that we need; cdrom has no backports.
        let usable = uri.ends_with("/debian") && !uri.contains("snapshot.")
            || uri.starts_with("mirror+file:") && !uri.contains("security");
        let main = suites.split_whitespace().any(|s| {
            let base = s
                .trim_end_matches("-updates")
                .trim_end_matches("-backports");
            [
                "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable",
            ]
            .contains(&base)
        });
        if usable && main && !found.iter().any(|f| f == uri) {
            found.push(uri.to_owned());
        }
    };
    for (deb822, text) in sources {
        if *deb822 {
            for stanza in text.split("\n\n") {
                let field = |name: &str| field_of(stanza, name);
                let enabled = field("Enabled").is_none_or(|v| v.trim() != "no");
                if let (true, Some(uris), Some(suites)) = (enabled, field("URIs"), field("Suites"))
                {
                    uris.split_whitespace().for_each(|uri| add(uri, &suites));
                }
            }
        } else {
            for line in text
                .lines()
                .map(|l| l.split('#').next().unwrap_or_default().trim())
            {
                let Some(rest) = line.strip_prefix("deb ").map(str::trim) else {
                    continue;
                };
                let rest = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
                    Some((_, rest)) => rest.trim(),
                    None => rest,
                };
                let mut words = rest.split_whitespace();
                if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
                    add(uri, suite);
                }
            }
        }
    }
    found
}

/// A field of a deb822 stanza, continuation lines included, comments left out.
fn field_of(stanza: &str, name: &str) -> Option<String> {
    let mut value: Option<String> = None;
    for line in stanza.lines().filter(|l| !l.starts_with('#')) {
        match (
            line.starts_with([' ', '\t']),
            &mut value,
            line.split_once(':'),
        ) {
            (true, Some(v), _) => {
                v.push(' ');
                v.push_str(line.trim());
            }
            (true, None, _) => {}
            (false, Some(_), _) => break,
            (false, None, Some((key, v))) if key.eq_ignore_ascii_case(name) => {
                value = Some(v.trim().to_owned())
            }
            (false, None, _) => {}
        }
    }
    value
}

/// Parses `'URI' file size SHA256:hex`.
fn parse_offer(line: &str) -> Option<Offer> {
    let (_, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut words = rest.split_whitespace();
    let file = words.next()?;
    let size = words.next()?.parse().ok()?;
    let sha256 = words
        .next()
        .and_then(|h| h.strip_prefix("SHA256:"))
        .map(str::to_owned);
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version, arch) = (parts.next()?, parts.next()?, parts.next()?);
    // The file is joined to a directory of ours: nothing but a plain name will do.
    if file.contains('/') || parts.next().is_some() {
        return None;
    }
    // apt escapes the epoch's colon, and nothing else, in file names (%3a).
    let version = version.replace("%3a", ":");
    Some(Offer {
        name: name.to_owned(),
        version,
        arch: arch.to_owned(),
        file: file.to_owned(),
        size,
        sha256,
    })
}

/// Unpacks the file tree of a package into `dir`.
pub fn unpack(deb: &Path, dir: &Path, stop: &AtomicBool) -> Result<(), HostError> {
    files::make_dir(dir)?;
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(deb).arg(dir);
    command::run(&mut command, "dpkg-deb", None, stop, |_| {}, || {})?
        .ok(format!("unpacking{}", indented(&deb.display().to_string())))
}

#[cfg(test)]
mod tests;
