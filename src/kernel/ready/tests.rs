// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A kernel that is built already.

use super::*;
use crate::exit::ExitCode;

fn data() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The head of a bzImage that says `text`.
fn image(text: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x20e..0x210].copy_from_slice(&0x40u16.to_le_bytes());
    bytes[0x240..0x240 + text.len()].copy_from_slice(text.as_bytes());
    bytes
}

struct Fake(tempfile::TempDir);

impl Fake {
    fn new(release: &str, config: &str) -> Self {
        let fake = Fake(tempfile::tempdir().unwrap());
        fake.put("bzImage", &image("7.2.12 (me@here) #1"));
        fake.put("modules/build/.config", config.as_bytes());
        let file = "modules/build/include/config/kernel.release";
        fake.put(file, format!("{release}\n").as_bytes());
        fake
    }

    fn put(&self, file: &str, bytes: &[u8]) {
        files::write_whole(&self.0.path().join(file), bytes).unwrap();
    }

    fn look(&self) -> Result<Ready, KernelError> {
        let request = ReadyRequest {
            image: self.0.path().join("bzImage"),
            modules: self.0.path().join("modules"),
        };
        Ready::look(data(), &request, None)
    }
}

fn needed() -> String {
    std::fs::read_to_string(data().join("guest-tests/kconfig/needed.config")).unwrap()
}

#[test]
fn an_image_says_its_release() {
    assert_eq!(release_of(&image("6.12.1-x+ (a)")).unwrap(), "6.12.1-x+");
    for bytes in [&b""[..], b"\x7fELF", &image("")[..0x210], &image("")] {
        assert_eq!(release_of(bytes), None);
    }
    let mut far = image("7.2 x");
    far[0x20e..0x210].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(release_of(&far), None);
}

#[test]
fn image_and_modules_must_belong_together() {
    let error = Fake::new("7.2.13", &needed()).look().unwrap_err();
    assert_eq!(error.exit(), ExitCode::Usage);
    let text = error.to_string();
    assert!(text.contains("7.2.12") && text.contains("7.2.13"), "{text}");
    let fake = Fake::new("7.2.12", &needed());
    assert!(fake.look().is_ok());
    fake.put("bzImage", b"\x7fELF");
    assert!(fake.look().unwrap_err().to_string().contains("no bzImage"));
}

#[test]
fn what_is_missing_is_named_and_virtio_may_be_modules() {
    let config = needed().replace("CONFIG_PCI_IOV=y", "# CONFIG_PCI_IOV is not set");
    let text = Fake::new("7.2.12", &config).look().unwrap_err().to_string();
    assert!(text.contains("CONFIG_PCI_IOV=y"), "{text}");
    let config = needed()
        .replace("CONFIG_VIRTIO_PCI=y", "CONFIG_VIRTIO_PCI=m")
        .replace("CONFIG_VIRTIO_NET=y", "CONFIG_VIRTIO_NET=m");
    let fake = Fake::new("7.2.12", &config);
    let ready = fake.look().unwrap();
    assert_eq!(ready.boot, ["virtio_pci", "virtio_net"]);
    assert!(
        ready
            .closure()
            .unwrap_err()
            .to_string()
            .contains("modules.dep")
    );
    let dep = "kernel/virtio-pci.ko.xz: kernel/virtio_ring.ko kernel/virtio.ko\nkernel/virtio_net.ko: kernel/failover.ko kernel/virtio.ko\n";
    fake.put("modules/modules.dep", dep.as_bytes());
    let names: Vec<String> = ready
        .closure()
        .unwrap()
        .iter()
        .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "virtio.ko",
            "virtio_ring.ko",
            "virtio-pci.ko.xz",
            "failover.ko",
            "virtio_net.ko"
        ]
    );
    let config = needed().replace("CONFIG_KPROBES=y", "CONFIG_KPROBES=m");
    assert!(Fake::new("7.2.12", &config).look().is_err());
}

#[test]
fn modules_are_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("a.ko");
    std::fs::write(&plain, b"module").unwrap();
    assert_eq!(unpacked(&plain).unwrap(), b"module");
    assert!(
        Command::new("xz")
            .arg("-k")
            .arg(&plain)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(unpacked(&dir.path().join("a.ko.xz")).unwrap(), b"module");
    std::fs::write(dir.path().join("b.ko.xz"), b"junk").unwrap();
    assert!(unpacked(&dir.path().join("b.ko.xz")).is_err());
}
