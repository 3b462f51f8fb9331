//! The answers of one run.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Reached,
    Refused,
    Count(u64),
}

/// What a check that was not made is shown as: the file is not there.
pub const MISSING: &str = "no, not shown";

/// The answers by check.
#[derive(Debug)]
pub struct Reach(BTreeMap<String, (Answer, String)>);

/// A check whose answer is more here than there.
pub struct Beyond {
    pub name: String,
    pub here: String,
    pub there: String,
}

impl Reach {
    pub fn parse(text: &str) -> Reach {
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let (name, rest) = line.split_once('\t').unwrap_or_else(|| panic!("not an answer: {line:?}"));
            let answer = match (rest.split(' ').next(), rest.parse()) {
                (Some("yes"), _) => Answer::Reached,
                (Some("no"), _) => Answer::Refused,
                (_, Ok(n)) => Answer::Count(n),
                _ => panic!("not an answer: {line:?}"),
            };
            // Two files of one name in different hierarchies are one answer.
            all.insert(name.to_owned(), (answer, rest.to_owned()));
        }
        assert!(all.len() > 2800, "the probe gave only {} answers", all.len());
        Reach(all)
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// As the probe wrote them.
    pub fn lines(&self) -> String {
        self.0.iter().map(|(name, (_, detail))| format!("{name}\t{detail}\n")).collect()
    }

    pub fn reaches(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some((Answer::Reached, _)))
    }

    /// What was answered; nothing is shown for a file that is not there.
    pub fn detail(&self, name: &str) -> &str {
        self.0.get(name).map_or(MISSING, |(_, detail)| detail)
    }

    pub fn count(&self, name: &str) -> u64 {
        match self.0.get(name) {
            Some((Answer::Count(n), _)) => *n,
            _ => 0,
        }
    }

    /// How many checks below `prefix` are reached.
    pub fn reached(&self, prefix: &str) -> usize {
        self.0.iter().filter(|(n, (a, _))| n.starts_with(prefix) && *a == Answer::Reached).count()
    }

    /// How many families or the like: `prefix` and the part up to the next slash are one.
    pub fn groups(&self, prefix: &str) -> usize {
        let mut all: Vec<&str> = self
            .0
            .iter()
            .filter(|(_, (a, _))| *a == Answer::Reached)
            .filter_map(|(n, _)| n.strip_prefix(prefix))
            .map(|n| n.split('/').next().unwrap_or(n))
            .collect();
        all.dedup();
        all.len()
    }

    pub fn beyond(&self, other: &Reach) -> Vec<Beyond> {
        let more = |name: &String, answer: &Answer| match answer {
            Answer::Reached => !other.reaches(name),
            Answer::Refused => false,
            Answer::Count(n) => *n > other.count(name),
        };
        let found = self.0.iter().filter(|(name, (answer, _))| more(name, answer));
        found
            .map(|(name, (_, detail))| Beyond {
                name: name.clone(),
                here: detail.clone(),
                there: other.detail(name).to_owned(),
            })
            .collect()
    }

    /// Checks that are answered otherwise here. The numbers of files differ as the kernel makes and frees
    /// objects, so they are left out.
    pub fn changed(&self, other: &Reach) -> Vec<String> {
        let all = self.0.keys().chain(other.0.keys()).filter(|n| !n.starts_with("count/"));
        let differs = all.filter(|n| self.detail(n) != other.detail(n));
        let mut lines: Vec<String> =
            differs.map(|n| format!("{n}: {} and {}", self.detail(n), other.detail(n))).collect();
        lines.dedup();
        lines
    }
}
