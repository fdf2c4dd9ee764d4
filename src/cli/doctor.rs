// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vfrace doctor`: what is there, what is missing, and how to mend it. It installs and downloads nothing.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::arch::Arch;
use crate::event::EventSink;
use crate::exit::ExitCode;
use crate::host::{apt, files, tools};
use crate::kernel::{self, Kernels};
use crate::qemu::{probe, provide};

use super::guest::GuestOption;

/// Room that a first `make run` takes in the cache, MiB.
const CACHE_MIB: u64 = 6 * 1024;

/// Say what is there, what is missing, and how to mend it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DoctorArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) guest: GuestOption,
}

/// How a line of the report stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// There.
    Ok,
    /// Not there yet; vfrace gets it by itself when it is needed.
    Later,
    /// Works without, but slower or with less.
    Without,
    /// Has to be mended first.
    Missing,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Later => "later",
            State::Without => "without",
            State::Missing => "MISSING",
        }
    }
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    what: String,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Line {
    fn new(what: &str, state: State, found: impl Into<String>, mend: Option<String>) -> Self {
        Self {
            what: what.to_owned(),
            state,
            found: found.into(),
            mend,
        }
    }
}

/// Examines the machine and prints the report to `out`. `Infrastructure` if something has to be mended. Takes up to ten
/// seconds when KVM has not been tried on this machine and there is a kernel to try it with.
pub fn run(
    args: &DoctorArgs,
    cache: &Path,
    data: &Path,
    events: &EventSink,
    stop: &AtomicBool,
    out: &mut dyn Write,
) -> ExitCode {
    let kernels = Kernels::new(cache.to_path_buf(), data.to_path_buf(), events.clone());
    let mut lines = vec![cache_line(cache)];
    let arch = args.guest.arch;
    lines.extend(tool_lines(arch));
    lines.push(sources_line(cache));
    lines.push(kernels_line(&kernels, arch));
    let qemu = provide::local(cache, arch);
    lines.push(qemu_line(&qemu, arch));
    lines.push(busybox_line(cache, arch));
    lines.push(match arch {
        Arch::X86_64 => kvm_line(cache, &qemu, &kernels, events, stop),
        Arch::S390x => Line::new(
            "KVM",
            State::Without,
            "guests of s390x are translated, with TCG",
            None,
        ),
    });
    let text = if args.json {
        serde_json::to_string_pretty(&lines).unwrap_or_else(|e| e.to_string())
    } else {
        table(&lines)
    };
    // A reader that went away is no error of ours.
    let _ = writeln!(out, "{}", text.trim_end());
    if lines.iter().any(|l| l.state == State::Missing) {
        ExitCode::Infrastructure
    } else {
        ExitCode::Good
    }
}

fn cache_line(cache: &Path) -> Line {
    match files::free_mib(cache) {
        Ok(free) => {
            let used = cache.join("kernels").is_dir() && cache.join("qemu").is_dir();
            let short = free < CACHE_MIB && !used;
            Line::new(
                "cache",
                if short { State::Missing } else { State::Ok },
                format!("{}, {free} MiB free", cache.display()),
                short.then(|| {
                    format!("a first run takes {CACHE_MIB} MiB: set VFRACE_CACHE to a larger disk")
                }),
            )
        }
        Err(e) => Line::new("cache", State::Missing, e.to_string(), e.hint()),
    }
}

fn tool_lines(arch: Arch) -> Vec<Line> {
    let group = |what: &str, group: &[tools::Tool], files: &[(&str, &str)]| {
        let mut missing: Vec<(&str, &str)> = group
            .iter()
            .filter(|t| tools::find(t.name).is_none())
            .map(|t| (t.name, t.package))
            .collect();
        missing.extend(files.iter().filter(|(file, _)| !Path::new(file).exists()));
        if missing.is_empty() {
            let names: Vec<&str> = group.iter().map(|t| t.name).collect();
            return Line::new(what, State::Ok, names.join(" "), None);
        }
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        packages.dedup();
        let mend = format!(
            "images/setup.sh{}, or apt-get install {}",
            match arch {
                Arch::X86_64 => String::new(),
                other => format!(" --arch {other}"),
            },
            packages.join(" ")
        );
        Line::new(
            what,
            State::Missing,
            format!("not there: {}", names.join(" ")),
            Some(mend),
        )
    };
    vec![
        group(
            "fetching",
            &tools::FETCH,
            &[(apt::KEYRING, "debian-archive-keyring")],
        ),
        group(
            "building",
            &[&tools::BUILD, tools::cross(arch)].concat(),
            &tools::HEADERS,
        ),
    ]
}

fn sources_line(cache: &Path) -> Line {
    let found = kernel::unpacked_sources(cache);
    if found.is_empty() {
        return Line::new(
            "kernel sources",
            State::Later,
            "none; fetched by the first build (165 MB)",
            None,
        );
    }
    Line::new("kernel sources", State::Ok, found.join(", "), None)
}

fn kernels_line(kernels: &Kernels, arch: Arch) -> Line {
    let built: Vec<String> = kernels
        .list()
        .iter()
        .filter(|k| k.arch == arch)
        .map(|k| format!("{} ({})", k.name, k.source_version))
        .collect();
    if built.is_empty() {
        return Line::new(
            "kernels",
            State::Later,
            "none built; the first takes 6 to 10 minutes on two cores",
            None,
        );
    }
    Line::new("kernels", State::Ok, built.join(", "), None)
}

fn qemu_line(
    qemu: &Result<Option<provide::QemuBinary>, provide::ProvideError>,
    arch: Arch,
) -> Line {
    match qemu {
        Ok(Some(qemu)) => Line::new(
            "QEMU",
            State::Ok,
            format!("{}, {}", qemu.version, qemu.origin),
            None,
        ),
        Ok(None) => Line::new(
            "QEMU",
            State::Later,
            format!(
                "none with {}; a private copy is fetched when needed (38 MB)",
                provide::wanted(arch)
            ),
            None,
        ),
        Err(e) => Line::new("QEMU", State::Missing, e.to_string(), e.hint()),
    }
}

fn busybox_line(cache: &Path, arch: Arch) -> Line {
    if files::dirs_in(&provide::busybox_room(cache, arch)).is_empty() {
        return Line::new("busybox", State::Later, "fetched when needed (1 MB)", None);
    }
    Line::new("busybox", State::Ok, "in the cache", None)
}

fn kvm_line(
    cache: &Path,
    qemu: &Result<Option<provide::QemuBinary>, provide::ProvideError>,
    kernels: &Kernels,
    events: &EventSink,
    stop: &AtomicBool,
) -> Line {
    let Ok(Some(qemu)) = qemu else {
        return Line::new("KVM", State::Later, "not tried: there is no QEMU yet", None);
    };
    let kvm = match (
        probe::known(cache, qemu),
        kernels.list().iter().find(|k| k.arch.is_default()),
    ) {
        (Some(kvm), _) => kvm,
        (None, None) => {
            return Line::new(
                "KVM",
                State::Later,
                "not tried: no kernel is built yet",
                None,
            );
        }
        (None, Some(kernel)) => {
            let image = cache.join("kernels").join(&kernel.id).join("bzImage");
            match probe::examine(cache, qemu, &image, events, stop) {
                Ok(kvm) => kvm,
                Err(e) => return Line::new("KVM", State::Without, e.to_string(), e.hint()),
            }
        }
    };
    if kvm.works {
        return Line::new("KVM", State::Ok, kvm.why, None);
    }
    let mend = if Path::new("/dev/kvm").exists() {
        format!(
            "nothing to do: TCG is used, which is slower. To try again remove {}",
            cache.join("kvm.json").display()
        )
    } else {
        "nothing to do: TCG is used, which is slower".to_owned()
    };
    Line::new("KVM", State::Without, kvm.why, Some(mend))
}

/// Columns as wide as they need to be; how to mend it is on a line of its own.
fn table(lines: &[Line]) -> String {
    let width = lines.iter().map(|l| l.what.len()).max().unwrap_or_default();
    let mut text = String::new();
    for line in lines {
        text.push_str(&format!(
            "{:<width$}  {:<7}  {}\n",
            line.what,
            line.state.word(),
            line.found
        ));
        if let Some(mend) = &line.mend {
            text.push_str(&format!("{:<width$}  {:<7}  -> {mend}\n", "", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_how_to_mend() {
        let lines = [
            Line::new("cache", State::Ok, "/c, 9 MiB free", None),
            Line::new(
                "building",
                State::Missing,
                "not there: bc",
                Some("apt-get install bc".to_owned()),
            ),
        ];
        let expected = "cache     ok       /c, 9 MiB free\n\
                        building  MISSING  not there: bc\n                   -> apt-get install bc\n";
        assert_eq!(table(&lines), expected);
    }

    #[test]
    fn an_empty_cache_is_no_fault() {
        let cache = tempfile::tempdir().unwrap();
        let kernels = Kernels::new(
            cache.path().into(),
            cache.path().into(),
            EventSink::discard(),
        );
        let lines = [
            sources_line(cache.path()),
            kernels_line(&kernels, Arch::X86_64),
            busybox_line(cache.path(), Arch::X86_64),
            qemu_line(&Ok(None), Arch::X86_64),
            kvm_line(
                cache.path(),
                &Ok(None),
                &kernels,
                &EventSink::discard(),
                &AtomicBool::new(false),
            ),
        ];
        assert!(lines.iter().all(|l| l.state == State::Later), "{lines:?}");
    }

    #[test]
    fn json_has_a_record_a_line() {
        let cache = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        let args = DoctorArgs {
            json: true,
            ..DoctorArgs::default()
        };
        let stop = AtomicBool::new(false);
        run(
            &args,
            cache.path(),
            cache.path(),
            &EventSink::discard(),
            &stop,
            &mut out,
        );
        let lines: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
        let names: Vec<_> = lines
            .iter()
            .filter_map(|l| l.get("what")?.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "cache",
                "fetching",
                "building",
                "kernel sources",
                "kernels",
                "QEMU",
                "busybox",
                "KVM"
            ]
        );
    }
}
