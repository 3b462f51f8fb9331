//! All named archives.

mod compression;
mod ends;
mod gnu;
mod headers;
mod links;
mod names;
mod pax;
mod whiteouts;
mod xattrs;

use std::collections::BTreeSet;

use libtest_mimic::Trial;

use crate::case::{Case, Expect, Scratch};
use crate::need::{self, Need};
use crate::readers::{self, Question};

pub fn all() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("names", names::cases()),
        ("links", links::cases()),
        ("whiteouts", whiteouts::cases()),
        ("headers", headers::cases()),
        ("pax", pax::cases()),
        ("xattrs", xattrs::cases()),
        ("gnu", gnu::cases()),
        ("ends", ends::cases()),
        ("compression", compression::cases()),
    ]
}

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("there_are_two_hundred_of_them", || {
            let names: Vec<String> = all()
                .into_iter()
                .flat_map(|(p, c)| c.into_iter().map(move |c| format!("{p}::{}", c.name)))
                .collect();
            let distinct: BTreeSet<&String> = names.iter().collect();
            assert_eq!(distinct.len(), names.len(), "a name twice");
            assert!(names.len() >= 200, "{}", names.len());
            println!("{} named archives", names.len());
            Ok(())
        }),
        need::trial("named_archives_as_others_read_them", &[Need::Readers], || {
            let scratch = Scratch::new("as-others");
            let mut questions = Vec::new();
            // Compressed ones are the same archives.
            for (part, cases) in all().into_iter().filter(|(p, _)| *p != "compression") {
                for case in cases.into_iter().filter(|c| matches!(c.expect, Expect::Read(_))) {
                    let name = format!("{part}::{}", case.name);
                    let Ok(tree) = scratch.unpacked(&case.archive) else { continue };
                    questions.push(Question { name, archive: case.archive, tree });
                }
            }
            let asked = questions.len();
            let (compared, differences) = readers::ask(&questions);
            assert!(differences.is_empty(), "{}", differences.join("\n"));
            println!("{asked} archives that were read, {compared} comparisons with other readers");
            Ok(())
        }),
    ]
}
