// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! This machine in a line, for whoever reads a result later.

use std::path::Path;

use super::files;

/// `2 x AMD EPYC 7B13, 8 GiB, Linux 6.1.0-40-amd64`: the CPUs that this process may use, the memory, the kernel. The
/// machine's name is left out: results are published.
pub fn line() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = files::read_if_there(Path::new("/proc/cpuinfo"))
        .ok()
        .flatten();
    let info = String::from_utf8_lossy(&info.unwrap_or_default()).into_owned();
    let model = model(&info).unwrap_or(std::env::consts::ARCH);
    let memory = rustix::system::sysinfo();
    let bytes = u64::from(memory.mem_unit).saturating_mul(memory.totalram as u64);
    let gib = bytes.saturating_add(1 << 29) >> 30;
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    format!("{cores} x {model}, {gib} GiB, Linux {release}")
}

/// The CPU's name in /proc/cpuinfo (x86; elsewhere there is none, or another field).
fn model(info: &str) -> Option<&str> {
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    let (_, name) = fields.find(|(key, _)| key.trim() == "model name")?;
    Some(name.trim()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_first() {
        let info = "processor\t: 0\nmodel name\t: A  B\nprocessor : 1\nmodel name : C\n";
        assert_eq!(model(info), Some("A  B"));
        assert_eq!(model("processor: 0\n"), None);
        assert_eq!(model("model name\t:\n"), None);
        assert!(line().contains(" GiB, Linux "));
    }
}
