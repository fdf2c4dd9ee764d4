// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parts of a campaign on the command line, and what docs/clusters.md tells a cluster to do. No guests: tests/guest has
//! a campaign that is really dealt out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vfrace::campaign::store::{RESULT_SCHEMA, VERSION};
use vfrace::campaign::{Amount, Asked, BootResult, CellAsked, Store};
use vfrace::event::{Class, Finding, Standing, Verdict};
use vfrace::oracle::Judgement;
use yaml_rust2::{Yaml, YamlLoader};

const SCENARIO: &str = "unbind-vs-vf-unplug";
const VARIABLES: [&str; 6] = [
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_ARRAY_TASK_STEP",
    "SLURM_ARRAY_TASK_COUNT",
    "JOB_COMPLETION_INDEX",
];

fn vfrace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfrace"));
    command.args(arguments).env("NO_COLOR", "1");
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

fn told(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{err}")
}

fn ends(mut command: Command, code: i32, words: &[&str]) -> String {
    let output = command.output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {told}");
    for word in words {
        assert!(
            told.contains(word),
            "{command:?}: `{word}` is not in: {told}"
        );
    }
    told
}

/// Part `at` of 2 of a campaign of two boots each, every boot with the result that is expected.
fn part(dir: &Path, at: u32, boots: &[(&str, u32, Verdict)]) {
    let cell = |kernel: &str| CellAsked {
        scenario: SCENARIO.to_owned(),
        kernel: kernel.to_owned(),
        scenario_id: "0".to_owned(),
        vfs: 3,
        rounds: 3,
        unplugs: true,
        kernel_id: Some(format!("id-{kernel}")),
        source_version: Some("7.2.12-1".to_owned()),
        release: None,
        build_failure: None,
    };
    let asked = Asked {
        cells: ["base", "v7"].map(cell).to_vec(),
        amount: Amount::Boots(2),
        reference: None,
        options: Vec::new(),
        arch: vfrace::arch::Arch::default(),
        accel: "tcg".to_owned(),
        qemu: "11.1.3".to_owned(),
        vfrace: "0.1.0".to_owned(),
        shard: Some(format!("{at}/2").parse().unwrap()),
    };
    let (store, _) = Store::open(dir, &asked, "a machine").unwrap();
    for (kernel, boot, verdict) in boots {
        let hit = *verdict == Verdict::DoubleRemoval;
        let finding = Finding {
            round: Some(1),
            ..Finding::new(
                Class::DoubleRemoval,
                "vf2 was removed twice",
                Standing::Wanted,
            )
        };
        store.fresh(SCENARIO, kernel, *boot).unwrap();
        let result = BootResult {
            schema: RESULT_SCHEMA.to_owned(),
            version: VERSION,
            scenario: SCENARIO.to_owned(),
            kernel: (*kernel).to_owned(),
            kernel_id: format!("id-{kernel}"),
            boot: *boot,
            tries: 1,
            judgement: Judgement {
                verdict: *verdict,
                findings: hit.then_some(finding).into_iter().collect(),
                evidence: vec!["round 1: so it was".to_owned()],
                hits: u32::from(hit),
                rounds: if hit { 1 } else { 3 },
            },
            seconds: 20.0,
            finished: "2026-11-25T02:00:00Z".to_owned(),
            vfrace: "0.1.0".to_owned(),
            qemu: "11.1.3".to_owned(),
        };
        store.put(&result).unwrap();
    }
}

fn merge(arguments: &[&str], dirs: &[&PathBuf]) -> Command {
    let mut command = vfrace(&["merge"]);
    command.args(arguments).args(dirs);
    command
}

#[test]
fn parts_that_cannot_be_are_refused() {
    let refused = |arguments: &[&str], variables: &[(&str, &str)], words: &[&str]| {
        let cache = tempfile::tempdir().unwrap();
        let mut command = vfrace(&["matrix"]);
        command.args(arguments).envs(variables.iter().copied());
        command.env("VFRACE_CACHE", cache.path());
        ends(command, 129, words);
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
    };
    refused(&["--shard", "3/2"], &[], &["`3/2` is no part"]);
    refused(
        &["--shard", "auto"],
        &[],
        &["neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX"],
    );
    refused(
        &["--shard", "auto"],
        &[("JOB_COMPLETION_INDEX", "0")],
        &["auto/N"],
    );
    refused(
        &["--shard", "auto/2"],
        &[("JOB_COMPLETION_INDEX", "2")],
        &["no part 3 of 2"],
    );
    refused(
        &["--shard", "1/2", "--error", "1%"],
        &[],
        &["needs all results", "vfrace merge --error"],
    );
    refused(&["--boots", "2", "--error", "1%"], &[], &["--boots"]);
    refused(&["--error", "0"], &[], &["above 0 and at most 0.5"]);
    refused(&["--max-boots", "5"], &[], &["--error"]);
    refused(
        &["--kernels", "base,v7", "--reference", "v9"],
        &[],
        &["`v9` is not among --kernels"],
    );
}

#[test]
fn parts_are_put_together() {
    use Verdict::{DoubleRemoval, Pass};
    let top = tempfile::tempdir().unwrap();
    let [one, two, out, page] = ["1", "2", "out", "page.md"].map(|name| top.path().join(name));
    part(&one, 1, &[("base", 1, DoubleRemoval), ("v7", 1, Pass)]);
    part(&two, 2, &[("base", 2, DoubleRemoval)]);
    ends(
        merge(&[], &[&one, &two]),
        125,
        &["missing: 1 boot (unbind-vs-vf-unplug on v7: 1)"],
    );
    ends(merge(&[], &[&one]), 125, &["missing: 2 boots"]);
    part(&two, 2, &[("base", 2, DoubleRemoval), ("v7", 2, Pass)]);
    let options = [
        "--error",
        "1%",
        "--out",
        out.to_str().unwrap(),
        "--markdown",
        page.to_str().unwrap(),
    ];
    // 2 of 2 against none of 6: 1 of C(8, 2) = 28.
    let said = ends(
        merge(&options, &[&one, &two]),
        0,
        &[
            "2 of 2 as expected",
            "base 2/2; false-pass <= 0.05; ",
            "error 0.01: 0 PASS meet it, 1 needs ",
        ],
    );
    assert!(!said.contains("missing"), "{said}");
    let written = std::fs::read_to_string(&page).unwrap();
    assert!(
        written.contains("| v7 | PASS | 6/6 (base 2/2; "),
        "{written}"
    );
    assert!(
        std::fs::read_to_string(out.join("matrix.json"))
            .unwrap()
            .contains("\"false_pass\"")
    );
    ends(merge(&[], &[&out]), 0, &["2 of 2 as expected"]);
    ends(merge(&[], &[&one, &two, &out]), 0, &["4 boots"]);
    // Another result of a boot that is there.
    let other = top.path().join("other");
    part(&other, 2, &[("base", 2, Pass)]);
    ends(
        merge(&[], &[&two, &other]),
        129,
        &[
            "base, boot 2 has two different results",
            "merge parts of one only",
        ],
    );
    ends(
        merge(&[], &[&top.path().join("none")]),
        129,
        &["no campaign.json"],
    );
}

/// The block of that language in docs/clusters.md.
fn block(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clusters.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```\n").unwrap().0.to_owned()
}

/// Runs a script with a `vfrace` that says what it was started with, and ends `matrix` with `status`.
fn played(script: &str, variables: &[(&str, &str)], status: i32) -> (i32, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("vfrace");
    let log = dir.path().join("log");
    let text = format!(
        "#!/bin/bash\necho \"$*\" >> {}\n[ \"$1\" = kernel ] || exit {status}\n",
        log.display()
    );
    std::fs::write(&fake, text).unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    let output = Command::new("bash")
        .args(["-c", script])
        .envs(variables.iter().copied())
        .env("PATH", path)
        .output()
        .unwrap();
    let log = std::fs::read_to_string(&log).unwrap_or_else(|_| panic!("{}", told(&output)));
    (
        output.status.code().unwrap(),
        log.lines().map(str::to_owned).collect(),
    )
}

/// What a script does with vfrace's exit codes, and that vfrace takes what it is told.
fn check_script(script: &str, variables: &[(&str, &str)], out: &str) {
    for (status, ended) in [(0, 0), (1, 0), (125, 0), (128, 128), (129, 129), (130, 130)] {
        let (code, calls) = played(script, variables, status);
        assert_eq!(code, ended, "{calls:?}");
        assert_eq!(calls.len(), 2, "{calls:?}");
        assert!(calls[1].ends_with(&format!("--out {out}")), "{calls:?}");
    }
    let (_, calls) = played(script, variables, 0);
    for call in &calls {
        let mut arguments: Vec<&str> = call.split(' ').collect();
        arguments.push("--help");
        ends(vfrace(&arguments), 0, &["Usage: vfrace"]);
        // The same, until it finds out that there is no such kernel: the part is one.
        let call = call.replace("--kernels base,v7", "--kernels base,v999");
        if call.starts_with("matrix") {
            let mut command = vfrace(&call.split(' ').collect::<Vec<_>>());
            command.envs(variables.iter().copied());
            let cache = tempfile::tempdir().unwrap();
            command.env("VFRACE_CACHE", cache.path());
            ends(command, 129, &["v999"]);
        }
    }
}

#[test]
fn the_slurm_script_works() {
    let script = block("bash");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &script).unwrap();
    let mut bash = Command::new("bash");
    bash.arg("-n").arg(file.path());
    ends(bash, 0, &[]);
    let mut shellcheck = Command::new("shellcheck");
    shellcheck.arg(file.path());
    match shellcheck.output() {
        Ok(output) => assert!(output.status.success(), "{}", told(&output)),
        Err(error) => eprintln!("no shellcheck here: {error}"),
    }
    let tasks = script
        .lines()
        .find_map(|line| line.strip_prefix("#SBATCH --array=1-"));
    let tasks = tasks.unwrap();
    assert!(script.contains(&format!("--shard auto/{tasks} ")));
    for id in ["1", tasks] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().to_str().unwrap();
        let variables = [
            ("SLURM_SUBMIT_DIR", dir),
            ("SLURM_CPUS_PER_TASK", "2"),
            ("SLURM_ARRAY_TASK_ID", id),
        ];
        check_script(&script, &variables, &format!("campaign/{id}"));
    }
}

#[test]
fn the_kubernetes_job_works() {
    let documents = YamlLoader::load_from_str(&block("yaml")).unwrap();
    let [job] = documents.as_slice() else {
        panic!("one document")
    };
    let text = |yaml: &Yaml| {
        yaml.as_str()
            .unwrap_or_else(|| panic!("{yaml:?}"))
            .to_owned()
    };
    assert_eq!(
        (text(&job["apiVersion"]), text(&job["kind"])),
        ("batch/v1".into(), "Job".into())
    );
    let spec = &job["spec"];
    assert_eq!(text(&spec["completionMode"]), "Indexed");
    let completions = spec["completions"].as_i64().unwrap();
    assert!(spec["parallelism"].as_i64().unwrap() <= completions);
    assert!(spec["backoffLimit"].as_i64().unwrap() >= completions);
    let pod = &spec["template"]["spec"];
    assert_eq!(text(&pod["restartPolicy"]), "OnFailure");
    let container = &pod["containers"][0];
    let volume = text(&pod["volumes"][0]["name"]);
    assert_eq!(text(&container["volumeMounts"][0]["name"]), volume);
    let mount = text(&container["volumeMounts"][0]["mountPath"]);
    let cache = &container["env"][0];
    assert_eq!(text(&cache["name"]), "VFRACE_CACHE");
    assert!(text(&cache["value"]).starts_with(&format!("{mount}/")));
    assert_eq!(container["command"].as_vec().unwrap().len(), 2);
    let script = text(&container["args"][0]);
    assert!(
        script.contains(&format!("--shard auto/{completions} ")),
        "{script}"
    );
    for index in [0, completions - 1] {
        let index = index.to_string();
        let variables = [("JOB_COMPLETION_INDEX", index.as_str())];
        check_script(&script, &variables, &format!("{mount}/campaign/{index}"));
    }
}
