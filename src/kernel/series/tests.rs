// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::process::Command;

use super::*;
use crate::exit::ExitCode;

const DIFF: &str = "diff --git a/a.c b/a.c\n--- a/a.c\n+++ b/a.c\n@@ -1,3 +1,3 @@\n one\n-two\n+zw\u{f6}lf = 2\n three\n";

fn diff(file: &str, from: &str, to: &str) -> String {
    format!("--- a/{file}\n+++ b/{file}\n@@ -1 +1 @@\n-{from}\n+{to}\n")
}

/// A mail with a body that is encoded as its header says.
fn mail(subject: &str, encoding: &str, body: &str) -> String {
    format!(
        "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n\
         From: =?UTF-8?q?J=C3=B6rg?= <j@example.org>\nDate: Tue, 3 Mar 2026 10:00:00 +0100\n\
         Subject: {subject}\nMIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\n\
         Content-Transfer-Encoding: {encoding}\n\n{body}\n"
    )
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for (at, part) in text.as_bytes().chunks(3).enumerate() {
        let bits =
            part.iter().fold(0u32, |all, b| all << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            out.push(if digit > part.len() {
                '='
            } else {
                DIGITS[index as usize] as char
            });
        }
        if at % 18 == 17 {
            out.push('\n');
        }
    }
    out
}

fn quoted_printable(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'\n' => "\n".to_owned(),
            b'=' => "=3D".to_owned(),
            b' '..=b'~' => (b as char).to_string(),
            other => format!("={other:02X}"),
        })
        .collect()
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, file: &str) -> String {
        self.0.path().join(file).to_str().unwrap().to_owned()
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) -> String {
        files::write_whole(&self.0.path().join(file), text.as_ref()).unwrap();
        self.path(file)
    }
}

fn read(from: &str) -> Series {
    Series::read(from, None).unwrap()
}

fn subjects(series: &Series) -> Vec<&str> {
    series.patches.iter().map(|p| p.subject.as_str()).collect()
}

fn refused(from: &str, words: &str) {
    let error = Series::read(from, None).unwrap_err();
    assert!(error.to_string().contains(words), "{from}: {error}");
    assert_eq!(error.exit(), ExitCode::Usage, "{error}");
    assert!(error.hint().is_some());
}

/// Puts a series onto files as git does, and gives one of them.
fn applied(series: &Series, files: &[(&str, &str)], wanted: &str) -> String {
    let dir = Dir::new();
    for (file, text) in files {
        dir.write(file, text);
    }
    let mut git = Git::at(dir.0.path());
    git.ceiling = dir.0.path().parent().map(Path::to_path_buf);
    for layer in series.layers(usize::MAX) {
        layer.apply(&git, false).unwrap().unwrap();
    }
    std::fs::read_to_string(dir.path(wanted)).unwrap()
}

#[test]
fn mails_in_every_encoding() {
    let dir = Dir::new();
    let body = format!(
        "Why.\n\nSigned-off-by: J\u{f6}rg <j@example.org>\n---\n a.c | 2 +-\n\n{DIFF}-- \n2.47.3\n"
    );
    for (encoding, text) in [
        ("8bit", body.clone()),
        ("base64", base64(&body)),
        ("quoted-printable", quoted_printable(&body)),
        ("8bit", body.replace('\n', "\r\n")),
    ] {
        for mbox in [true, false] {
            let mut mail = mail(
                "[PATCH v3] PCI: Do =?UTF-8?q?=C3=A4?= thing",
                encoding,
                &text,
            );
            if !mbox {
                mail = mail.split_once('\n').unwrap().1.to_owned();
            }
            let series = read(&dir.write("mail.eml", &mail));
            assert_eq!(subjects(&series), ["PCI: Do \u{e4} thing"], "{encoding}");
            assert_eq!(series.patches[0].files, [PathBuf::from("a.c")]);
            let after = applied(&series, &[("a.c", "one\ntwo\nthree\n")], "a.c");
            assert_eq!(after, "one\nzw\u{f6}lf = 2\nthree\n", "{encoding}");
        }
    }
}

#[test]
fn a_patch_that_is_attached() {
    let dir = Dir::new();
    let text = format!(
        "From: A <a@example.org>\nSubject: fix\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\"\n\n\
         --b\nContent-Type: text/plain\n\nSee there.\n\n--b\nContent-Type: text/x-diff\nContent-Transfer-Encoding: base64\n\n{}\n--b--\n",
        base64(DIFF)
    );
    let series = read(&dir.write("m", text));
    assert!(applied(&series, &[("a.c", "one\ntwo\nthree\n")], "a.c").contains("= 2"));
}

#[test]
fn a_mailbox_in_any_order_with_cover_letter_and_replies() {
    let dir = Dir::new();
    let mbox = [
        mail("[PATCH v2 2/2] second", "8bit", &diff("a", "2", "3")),
        mail(
            "[PATCH v2 0/2] cover",
            "8bit",
            " a | 2 +-\n 1 file changed\n",
        ),
        mail(
            "Re: [PATCH v2 1/2] first",
            "8bit",
            &format!("> x\n\nBetter:\n\n{}", diff("a", "1", "9")),
        ),
        mail(
            "[PATCH v2 1/2]\n first, of\n two lines",
            "8bit",
            &diff("a", "1", "2"),
        ),
    ]
    .concat();
    let series = read(&dir.write("thread.mbox", mbox));
    assert_eq!(subjects(&series), ["first, of two lines", "second"]);
    assert_eq!(applied(&series, &[("a", "1\n")], "a"), "3\n");
    assert_eq!(series.name, "thread");
    let labels: Vec<String> = series.layers(9).into_iter().map(|l| l.label).collect();
    assert!(
        labels[1].ends_with("thread.mbox, patch 2/2 (second)"),
        "{labels:?}"
    );
    assert_eq!(series.layers(1).len(), 1);
    // Without numbers the order is that of the file.
    let mbox = [
        mail("b", "8bit", &diff("a", "1", "2")),
        mail("a", "8bit", &diff("a", "2", "3")),
    ]
    .concat();
    assert_eq!(subjects(&read(&dir.write("m", mbox))), ["b", "a"]);
}

#[test]
fn plain_diffs() {
    let dir = Dir::new();
    let series = read(&dir.write("My fix (v2).patch", DIFF));
    assert_eq!(
        (series.name.as_str(), series.patches.len()),
        ("My-fix-v2", 1)
    );
    let shown = format!(
        "commit 0123\nAuthor: A <a@example.org>\nDate:   x\n\n    Subject: of something\n\n{DIFF}"
    );
    let series = read(&dir.write("show.diff", shown));
    assert_eq!(subjects(&series), ["show.diff"]);
    assert!(applied(&series, &[("a.c", "one\ntwo\nthree\n")], "a.c").contains("= 2"));
}

#[test]
fn directories() {
    let dir = Dir::new();
    dir.write("d/02-b.patch", diff("a", "2", "3"));
    dir.write(
        "d/01-a.diff",
        mail("[PATCH 7/9] first", "8bit", &diff("a", "1", "2")),
    );
    dir.write("d/README", "no patch\n");
    let series = read(&dir.path("d"));
    assert_eq!(subjects(&series), ["first", "02-b.patch"]);
    assert_eq!(applied(&series, &[("a", "1\n")], "a"), "3\n");
    // quilt's
    dir.write(
        "q/patches/series",
        "# comment\n\nz.patch\nsub/y.patch -p0 # why\nx.patch -p2\n",
    );
    dir.write("q/patches/z.patch", diff("a", "1", "2"));
    dir.write(
        "q/patches/sub/y.patch",
        "--- a.orig\n+++ a\n@@ -1 +1 @@\n-2\n+3\n",
    );
    dir.write(
        "q/patches/x.patch",
        "--- x/y/a\n+++ x/y/a\n@@ -1 +1 @@\n-3\n+4\n",
    );
    dir.write("q/patches/unlisted.patch", "nothing\n");
    let series = read(&dir.path("q"));
    assert_eq!(subjects(&series), ["z.patch", "y.patch", "x.patch"]);
    assert_eq!(applied(&series, &[("a", "1\n")], "a"), "4\n");
    // a Maildir
    dir.write(
        "m/cur/2.x:2,S",
        mail("[PATCH 2/2] b", "8bit", &diff("a", "2", "3"))
            .split_once('\n')
            .unwrap()
            .1,
    );
    dir.write(
        "m/new/1.x",
        mail("[PATCH 1/2] a", "8bit", &diff("a", "1", "2"))
            .split_once('\n')
            .unwrap()
            .1,
    );
    std::fs::create_dir(dir.path("m/tmp")).unwrap();
    assert_eq!(subjects(&read(&dir.path("m"))), ["a", "b"]);
}

#[test]
fn commits() {
    let dir = Dir::new();
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git::clean(&mut git);
        let out = git
            .args(["-c", "user.name=T", "-c", "user.email=t@example.org"])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .current_dir(dir.0.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?} {out:?}");
    };
    git(&["init", "-q"]);
    // What the repository's own configuration would make of it.
    git(&["config", "format.subjectPrefix", "X"]);
    git(&["config", "diff.noprefix", "true"]);
    git(&["config", "diff.external", "/bin/false"]);
    for n in 0..4 {
        dir.write("a", format!("{n}\n"));
        git(&["add", "a"]);
        git(&["commit", "-q", "-m", &format!("PCI: number {n}")]);
    }
    let of = |range: &str| Series::read(range, Some(dir.0.path()));
    let series = of("HEAD~2..HEAD").unwrap();
    assert_eq!(subjects(&series), ["PCI: number 2", "PCI: number 3"]);
    assert_eq!(series.name, "HEAD-2-to-HEAD");
    assert_eq!(applied(&series, &[("a", "1\n")], "a"), "3\n");
    for (range, words) in [
        ("HEAD..HEAD", "no commit in this range"),
        ("nothing..HEAD", "no range of commits"),
        ("--output=x..y", "no range of commits"),
    ] {
        let error = of(range).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert!(!dir.0.path().join("x..y").exists());
}

#[test]
fn what_cannot_be_used_is_refused() {
    let dir = Dir::new();
    refused(&dir.path("none.patch"), "no such file");
    refused(&dir.write("empty", ""), "no diff in it");
    refused(&dir.write("text", "Hello.\n"), "no diff in it");
    refused(
        &dir.write("binary", (0..=255).collect::<Vec<u8>>().repeat(50)),
        "no diff in it",
    );
    refused(&dir.write("gz", [0x1f, 0x8b, 8, 0]), "gunzip");
    refused(
        &dir.write("cover.mbox", mail("[PATCH 0/1] x", "8bit", "nothing\n")),
        "no patch in it",
    );
    refused(
        &dir.write("broken.mbox", mail("x", "base64", "!!!!")),
        "no patch in it",
    );
    refused("/dev/zero", "longer than");
    refused("/dev/null", "no diff in it");
    let bin = "diff --git a/x b/x\nindex 0..1 100644\nGIT binary patch\nliteral 1\n";
    refused(&dir.write("bin.patch", bin), "binary file");
    std::fs::create_dir(dir.path("nothing")).unwrap();
    refused(&dir.path("nothing"), "no patch in it");
    for name in ["a/../../x", "/etc/passwd", "b/.git/hooks/x"] {
        let text = format!("--- {name}\n+++ {name}\n@@ -1 +1 @@\n-a\n+b\n");
        refused(&dir.write("out.patch", &text), "leaves the source tree");
        refused(
            &dir.write("out.mbox", mail("x", "8bit", &text)),
            "leaves the source tree",
        );
    }
    for (line, words) in [
        (
            "../out.patch",
            "series:1: `../out.patch` is not in the directory",
        ),
        ("/etc/passwd", "not in the directory"),
        ("gone.patch", "cannot be read"),
        ("x.patch -R", "series:1: `-R` is not understood"),
    ] {
        dir.write("q/x.patch", DIFF);
        dir.write("q/series", line);
        refused(&dir.path("q"), words);
    }
}

#[test]
fn names_of_kernels() {
    for (from, name) in [
        ("fix.patch", "fix"),
        ("/a/b/0001-PCI-IOV-Fix.patch", "0001-PCI-IOV-Fix"),
        ("-", "patch"),
        ("a..b.patch", "a-to-b"),
        ("v7.1..v7.2", "v7.1-to-v7.2"),
        ("\u{e4}\u{e4}.mbox", "patch"),
        (".hidden.diff", "hidden"),
        ("a b\tc;d.eml", "a-b-c-d"),
    ] {
        assert_eq!(name_of(from), name, "{from}");
    }
    let long = name_of(&"x".repeat(100));
    assert_eq!(long.len(), NAME);
}

#[test]
fn subjects_and_their_numbers() {
    let of = |line: &str| {
        let (subject, number) = subject_of(line);
        (subject.unwrap_or_default(), number)
    };
    assert_eq!(
        of("[PATCH v14 1/2] PCI: x [y]"),
        ("PCI: x [y]".to_owned(), Some((1, 2)))
    );
    assert_eq!(of("[RFC] [PATCH 03/10] x"), ("x".to_owned(), Some((3, 10))));
    assert_eq!(of("[PATCH]"), ("no subject".to_owned(), None));
    assert_eq!(of("Re: [PATCH] x"), (String::new(), None));
    assert_eq!(of("[unclosed x"), ("[unclosed x".to_owned(), None));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
    #[test]
    fn every_name_is_one(from in "\\PC{0,50}") {
        let name = name_of(&from);
        proptest::prop_assert!(is_variant(&name) && !name.contains(".."), "{}", name);
    }

    #[test]
    fn no_text_confuses_it(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        is_mail(&text);
        subject_of(&String::from_utf8_lossy(&text));
    }
}
