// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

#[test]
fn config_points_into_the_root_and_keeps_the_proxy() {
    let dump = "Acquire::http::Proxy \"http://proxy:3128\";\nAcquire::AllowInsecureRepositories \"1\";\n\
                Acquire::https::Verify-Peer \"false\";\nAPT::Get::AllowUnauthenticated \"1\";\nAcquire::http \"\";\n";
    let text = config_text(Path::new("/c/apt"), "amd64", &SUITES, &carried(dump)).unwrap();
    assert!(text.contains("Dir::Etc \"/c/apt/etc\";\n"), "{text}");
    assert!(
        text.contains("Dir::State::status \"/c/apt/state/status\";\n"),
        "{text}"
    );
    assert!(
        text.contains("APT::Default-Release \"trixie-backports\";\n"),
        "{text}"
    );
    assert!(
        text.contains("Acquire::http::Proxy \"http://proxy:3128\";\n"),
        "{text}"
    );
    for bad in ["Insecure", "Unauthenticated", "Verify"] {
        assert!(!text.contains(bad), "{text}");
    }
}

#[test]
fn a_path_that_would_break_the_configuration_is_refused() {
    assert!(config_text(Path::new("/c/a\"pt"), "amd64", &SUITES, &[]).is_err());
    assert!(config_text(Path::new("/c/a pt"), "amd64", &SUITES, &[]).is_ok());
}

#[test]
fn sources_are_signed() {
    let text = sources_text("http://m/debian", "amd64", &SUITES);
    assert_eq!(text.lines().count(), 2);
    assert!(
        text.lines()
            .all(|l| l.contains("signed-by=/usr/share/keyrings/debian-archive-keyring.gpg")),
        "{text}"
    );
}

#[test]
fn the_mirror_is_the_systems() {
    let one = |deb822, text: &str| mirrors(&[(deb822, text.to_owned())]);
    assert_eq!(
        one(
            false,
            "# deb http://no/debian trixie main\ndeb [arch=amd64 signed-by=/k] http://a/debian/ bookworm main contrib\n"
        ),
        ["http://a/debian".to_owned()]
    );
    assert_eq!(
        one(
            true,
            "Types: deb\n# note\nURIs: http://b/debian\n http://c/debian\nSuites: trixie trixie-updates\nComponents: main\n"
        ),
        ["http://b/debian".to_owned(), "http://c/debian".to_owned()]
    );
    assert_eq!(
        one(
            true,
            "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: bookworm\nComponents: main\n"
        ),
        ["mirror+file:///etc/apt/mirrors/debian.list".to_owned()]
    );
    for other in [
        "deb http://s/debian-security bookworm-security main",
        "deb http://snapshot.m/archive/debian/20250520T000000Z/debian bookworm main",
        "deb http://x/ubuntu noble main",
        "deb http://x/debian nodistro main",
        "deb-src http://x/debian trixie main",
        "",
    ] {
        assert!(one(false, other).is_empty(), "{other}");
    }
    assert!(one(true, "Enabled: no\nURIs: http://b/debian\nSuites: trixie\n").is_empty());
}

#[test]
fn offers_are_parsed() {
    let line = "'http://m/pool/q_1%3a11.deb' qemu-system-x86_1%3a11.1.3+ds-1~bpo13+1_amd64.deb 123 SHA256:abcd";
    let offer = parse_offer(line).unwrap();
    assert_eq!(offer.name, "qemu-system-x86");
    assert_eq!(offer.version, "1:11.1.3+ds-1~bpo13+1");
    assert_eq!(
        (offer.arch.as_str(), offer.size, offer.sha256.as_deref()),
        ("amd64", 123, Some("abcd"))
    );
    assert_eq!(
        parse_offer("'http://m/x' ../../etc/x_1_all.deb 1 SHA256:a"),
        None
    );
    assert_eq!(parse_offer("Reading package lists..."), None);
}
