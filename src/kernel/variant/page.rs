// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page docs/variants.md, made of the manifest.

use std::fmt::Write as _;

use super::{History, Manifest, Variant};

const HEAD: &str = "<!-- SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause -->
<!-- Made by src/kernel/variant/page.rs: UPDATE=1 cargo test --lib variants_md -->

# Variants: the history of the fix

What mainline had one after the other (b0, b1, b2, base) and the fourteen versions of the proposed fix, from
guest-tests/variants/variants.toml. The patches are written for vfrace from a description of each version, and behave as it
does; they are put on Debian's source packages.

    vfrace kernel list
    vfrace kernel show v7              # everything below, what is expected of it in each scenario, and the patch
    vfrace kernel show v7 --patch      # the patch alone
    vfrace kernel build v5..v7 v14@7.3

A name is VARIANT[+FRAGMENT][@SOURCE]. `@7.3` is for another source than 7.2, `+rt` puts guest-tests/kconfig/rt.config on top
of the configuration. In lists, `v5..v14` is everything from v5 to v14 and `all` everything, each code once.

| variant | date | how it locks | tried on | does not build with |
|---|---|---|---|---|
";

/// The page.
pub fn page(manifest: &Manifest) -> String {
    let mut page = HEAD.to_owned();
    let known = || {
        let all = manifest.ordinary();
        all.filter_map(|variant| Some((variant, variant.history.as_ref()?)))
    };
    // Writing to a String does not fail.
    for (variant, history) in known() {
        let _ = match &variant.alias_of {
            Some(other) => writeln!(
                page,
                "| {} | {} | the code of {other} | | |",
                variant.name, history.date
            ),
            None => {
                let unfit: Vec<&str> = variant.unfit.keys().map(String::as_str).collect();
                writeln!(
                    page,
                    "| {} | {} | {} | {} | {} |",
                    variant.name,
                    history.date,
                    variant.mechanism,
                    variant.applies_to.join(", "),
                    unfit.join(", ")
                )
            }
        };
    }
    page += "\n## What is new in each, and who has the lock when\n";
    for (variant, history) in known() {
        one(&mut page, variant, history);
    }
    page
}

fn one(page: &mut String, variant: &Variant, history: &History) {
    let name = &variant.name;
    let _ = write!(
        page,
        "\n**{name}** ({}). {}\n\n",
        history.date, history.change
    );
    if variant.alias_of.is_none() {
        for lock in &history.locks {
            let _ = writeln!(page, "- {lock}");
        }
        for (what, why) in &variant.unfit {
            let _ = writeln!(page, "- not with {what}: {why}");
        }
    }
    let (mail, base) = (&history.message_id, &history.base);
    let _ = writeln!(
        page,
        "- made for {base}; <https://lore.kernel.org/all/{mail}/>"
    );
}
