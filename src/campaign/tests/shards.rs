// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::fake::asked;
use crate::campaign::plan::{is_dealt, missing};
use crate::campaign::{Amount, Asked, Results, Shard, ShardWish};

fn part(wish: &str, environment: &[(&str, &str)]) -> Result<String, String> {
    let environment: HashMap<&str, &str> = environment.iter().copied().collect();
    let variable = |name: &str| environment.get(name).map(|value| (*value).to_owned());
    let wish: ShardWish = wish.parse()?;
    wish.part(&variable).map(|shard| shard.to_string())
}

#[test]
fn parts_are_stated_or_found_in_the_environment() {
    let slurm = |id, min, max, step, count| {
        [
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_MIN", min),
            ("SLURM_ARRAY_TASK_MAX", max),
            ("SLURM_ARRAY_TASK_STEP", step),
            ("SLURM_ARRAY_TASK_COUNT", count),
        ]
    };
    let is = |wish: &str, environment: &[(&str, &str)], shard: &str| {
        assert_eq!(
            part(wish, environment).as_deref(),
            Ok(shard),
            "{wish} {environment:?}"
        );
    };
    is("2/8", &[], "2/8");
    is("2/8", &slurm("3", "1", "4", "1", "4"), "2/8");
    is("auto", &slurm("3", "1", "4", "1", "4"), "3/4");
    is("auto", &slurm("0", "0", "7", "1", "8"), "1/8");
    is("auto", &slurm("20", "10", "30", "5", "5"), "3/5");
    // A task that is run again alone, as `sbatch --array=3`, has the same part.
    is("auto/8", &slurm("3", "3", "3", "1", "1"), "3/8");
    is("auto/8", &[("JOB_COMPLETION_INDEX", "0")], "1/8");
    is("auto/8", &[("JOB_COMPLETION_INDEX", "7")], "8/8");
    let wrong = |wish: &str, environment: &[(&str, &str)], word: &str| {
        let error = part(wish, environment).unwrap_err();
        assert!(error.contains(word), "{wish} {environment:?}: {error}");
    };
    for text in [
        "", "0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/5", "autos", "auto/", "auto/0", "auto/x",
    ] {
        wrong(text, &[], "is no part");
    }
    wrong("auto", &[], "neither");
    wrong("auto/4", &[], "neither");
    wrong("auto", &[("JOB_COMPLETION_INDEX", "0")], "auto/N");
    wrong("auto/2", &[("JOB_COMPLETION_INDEX", "2")], "no part 3 of 2");
    wrong("auto/2", &[("JOB_COMPLETION_INDEX", "x")], "no number");
    wrong("auto/8", &slurm("0", "0", "7", "1", "8"), "from 1 to 8");
    wrong("auto", &slurm("3", "1", "9", "1", "4"), "steps of 1");
    wrong(
        "auto",
        &[("SLURM_ARRAY_TASK_ID", "1")],
        "SLURM_ARRAY_TASK_MIN is not set",
    );
    wrong(
        "auto/2",
        &[("SLURM_ARRAY_TASK_ID", "1"), ("JOB_COMPLETION_INDEX", "0")],
        "both",
    );
}

fn count(asked: &Asked) -> u64 {
    missing(asked, &Results::new()).iter().map(|(_, n)| n).sum()
}

proptest! {
    #[test]
    fn every_boot_is_dealt_to_one_part(cells in 1usize..6, boots in 1u32..12, of in 1u32..9) {
        let names: Vec<String> = (0..cells).map(|n| format!("s on v{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut asked = asked(&names, Amount::Boots(boots));
        let mut seen = BTreeSet::new();
        let mut sizes = Vec::new();
        for at in 1..=of {
            asked.shard = Shard::new(at, of);
            let all = (0..cells).flat_map(|cell| (1..=boots).map(move |boot| (cell, boot)));
            let mine: Vec<_> = all.filter(|&(cell, boot)| is_dealt(&asked, cell, boot)).collect();
            prop_assert_eq!(count(&asked), mine.len() as u64);
            sizes.push(mine.len());
            for boot in mine {
                prop_assert!(seen.insert(boot), "{boot:?} twice");
            }
        }
        prop_assert_eq!(seen.len(), cells * boots as usize);
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        asked.shard = None;
        prop_assert_eq!(count(&asked), seen.len() as u64);
    }
}
