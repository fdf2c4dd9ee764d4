// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a person reads about a console that was judged, and the same as JSON (docs/judge.md).

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::text::{body, verdict};
use crate::exit::ExitCode;
use crate::oracle::Judgement;
use crate::oracle::foreign::Remarks;
use crate::symbols::Filled;

/// Version of the JSON document. Raised when a field changes its meaning or goes away; fields may be added.
const VERSION: u32 = 1;

/// What is to be told about a console.
#[derive(Clone, Debug, Serialize)]
pub struct JudgeReport<'a> {
    /// The console's file, `-` for standard input.
    pub console: &'a str,
    /// Its length.
    pub bytes: u64,
    /// Findings count from this byte on; `None` with a recording in which nothing was armed.
    pub counts_from: Option<u64>,
    /// The recording, if there is one.
    pub events: Option<&'a Path>,
    /// The scenario, with a recording.
    pub scenario: Option<&'a str>,
    /// The kernel's name, if it is known.
    pub kernel: Option<&'a str>,
    /// Verdict, findings, evidence.
    #[serde(flatten)]
    pub judgement: &'a Judgement,
    /// The program's exit code.
    #[serde(serialize_with = "number")]
    pub exit: ExitCode,
    /// What limits what the console can say.
    pub remarks: &'a Remarks,
    /// The symbols that lines of source came from.
    pub symbols: Option<SymbolsUsed<'a>>,
}

/// Where lines of source came from.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SymbolsUsed<'a> {
    /// The file.
    pub path: &'a Path,
    /// How far it went.
    #[serde(flatten)]
    pub filled: Filled,
}

fn number<S: serde::Serializer>(exit: &ExitCode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u8(exit.code())
}

impl JudgeReport<'_> {
    /// Verdict, evidence, findings.
    pub fn text(&self, color: bool) -> String {
        let mut text = match (self.scenario, self.kernel) {
            (Some(scenario), Some(kernel)) => format!("{scenario} on {kernel}: "),
            _ => format!("{}: ", self.console),
        };
        text += &verdict(self.judgement.verdict, 0, color);
        let _ = match self.scenario {
            Some(_) => writeln!(
                text,
                "  {}/{} rounds",
                self.judgement.hits, self.judgement.rounds
            ),
            None => writeln!(text),
        };
        body(
            &mut text,
            &self.judgement.evidence,
            &self.judgement.findings,
        );
        text
    }

    /// The document, on several lines.
    pub fn json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Document<'a> {
            schema: &'static str,
            version: u32,
            #[serde(flatten)]
            report: &'a JudgeReport<'a>,
        }
        let mut text = serde_json::to_string_pretty(&Document {
            schema: "vfrace-judge",
            version: VERSION,
            report: self,
        })?;
        text.push('\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Class, Finding, Frame, Place, Standing, Verdict};

    fn frame(text: &str, places: &[&str]) -> Frame {
        let place = |(n, function): (usize, &&str)| Place {
            function: (*function).to_owned(),
            file: format!("drivers/{function}.c"),
            line: n as u32 + 7,
        };
        Frame {
            text: text.to_owned(),
            places: places.iter().enumerate().map(place).collect(),
        }
    }

    #[test]
    fn frames_are_told_from_the_telling_one_on() {
        let judgement = Judgement {
            verdict: Verdict::Finding,
            findings: vec![Finding {
                frame: Some("telling".into()),
                stack: vec![
                    frame("dump+0x1/0x2", &["dump"]),
                    frame("telling+0x1/0x2", &["a", "b", "c", "telling"]),
                    frame("hold+0x1/0x2 [vfrace]", &[]),
                    frame("caller+0x1/0x2", &["one", "caller"]),
                    frame("last+0x1/0x2", &["last"]),
                ],
                ..Finding::new(Class::Oops, "BUG", Standing::Other)
            }],
            evidence: vec!["class OOPS".into()],
            hits: 0,
            rounds: 0,
        };
        let report = JudgeReport {
            console: "-",
            bytes: 3,
            counts_from: Some(0),
            events: None,
            scenario: None,
            kernel: None,
            judgement: &judgement,
            exit: ExitCode::Bad,
            remarks: &Remarks::default(),
            symbols: None,
        };
        let lines = [
            "-: FINDING",
            "  evidence",
            "    class OOPS",
            "  findings",
            "    other   OOPS: BUG (in telling)",
            "            telling drivers/telling.c:10 (inlined: a drivers/a.c:7, b drivers/b.c:8, 1 more)",
            "            caller drivers/caller.c:8 (inlined: one drivers/one.c:7)",
            "",
        ];
        assert_eq!(report.text(false), lines.join("\n"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["findings"][0]["stack"][1]["places"][3]["line"], 10);
    }
}
