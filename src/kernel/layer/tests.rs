// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

fn names(diff: &str) -> Vec<String> {
    let files = files_of(diff.as_bytes(), 1).unwrap();
    files.iter().map(|f| f.display().to_string()).collect()
}

#[test]
fn all_that_a_diff_touches() {
    let diff = "A message.\n---\n x | 2 +-\n\n\
        diff --git a/old.c b/new.c\nsimilarity index 90%\nrename from old.c\nrename to new.c\n\
        --- a/old.c\n+++ b/new.c\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n\
        diff --git a/made.c b/made.c\nnew file mode 100644\n--- /dev/null\n+++ b/made.c\n@@ -0,0 +1 @@\n+x\n\
        diff --git a/gone.c b/gone.c\ndeleted file mode 100644\n--- a/gone.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\
        diff --git a/run.sh b/run.sh\nold mode 100644\nnew mode 100755\n";
    assert_eq!(
        names(diff),
        ["gone.c", "made.c", "new.c", "old.c", "run.sh"]
    );
}

#[test]
fn a_removed_line_is_no_header() {
    let diff = "--- a/x.txt\n+++ b/x.txt\n@@ -1,2 +1,2 @@\n--- a/../evil\n+++ b/../evil\n same\n";
    assert_eq!(names(diff), ["x.txt"]);
}

#[test]
fn unusual_names() {
    assert_eq!(
        names("--- \"a/\\303\\244 b.c\"\n+++ \"b/\\303\\244 b.c\"\n@@ -1 +1 @@\n-a\n+b\n"),
        ["ä b.c"]
    );
    assert_eq!(
        names(
            "--- linux.orig/d/a.c\t2026-01-01\n+++ linux/d/a.c\t2026-01-02\n@@ -1 +1 @@\n-a\n+b\n"
        ),
        ["d/a.c"]
    );
    let files = files_of(b"--- a.c\n+++ a.c\n@@ -1 +1 @@\n-a\n+b\n", 0).unwrap();
    assert_eq!(files, [PathBuf::from("a.c")]);
}

#[test]
fn what_leaves_the_source_is_refused() {
    for name in [
        "b/../x",
        "/etc/passwd",
        "b/a/../../x",
        "../x",
        "b/.git/config",
        "b/a/.GIT/hooks/x",
    ] {
        for diff in [
            format!("--- a/x\n+++ {name}\n@@ -1 +1 @@\n-a\n+b\n"),
            format!("--- {name}\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"),
        ] {
            let error = files_of(diff.as_bytes(), 1).unwrap_err();
            assert!(error.contains("leaves the source tree"), "{diff}: {error}");
        }
    }
    let rename = "diff --git a/x b/y\nrename from x\nrename to ../y\n";
    assert!(files_of(rename.as_bytes(), 1).is_err());
    for nothing in ["", "hello\n", "--- a/x\n", "\u{0}\u{1}\n+++ b/x\n"] {
        let error = files_of(nothing.as_bytes(), 1).unwrap_err();
        assert_eq!(error, "there is no diff in it");
    }
}

#[test]
fn the_hunk_that_was_refused_is_shown() {
    let layer = Layer {
        label: "x".to_owned(),
        bytes: b"--- a/a.c\n+++ b/a.c\n@@ -1,1 +1,1 @@\n-1\n+2\n@@ -9,2 +9,2 @@ f()\n same\n-old\n+new\n-- \n2.47\n"
            .to_vec(),
        strip: 1,
        loose: false,
        files: Vec::new(),
    };
    let said = "error: patch failed: a.c:9\nerror: a.c: patch does not apply";
    assert_eq!(
        layer.refused(said).unwrap(),
        "@@ -9,2 +9,2 @@ f()\n same\n-old\n+new"
    );
    assert_eq!(layer.refused("error: corrupt patch at line 3"), None);
    assert_eq!(layer.refused("error: patch failed: b.c:9"), None);
}

proptest::proptest! {
    #[test]
    fn no_text_does_harm(diff in "([-+@ ]{0,4}[ab/.\"\\\\0-9, ]{0,8}\n){0,8}") {
        if let Ok(files) = files_of(diff.as_bytes(), 1) {
            for file in files {
                proptest::prop_assert!(file.components().all(|c| matches!(c, Component::Normal(_))));
            }
        }
    }
}
