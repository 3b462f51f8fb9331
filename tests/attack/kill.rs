//! SIGKILL at the k-th system call, of the embedder, of the helper, of what it clones, and of all at once.

use libtest_mimic::Failed;

use crate::check::{Arena, Kept};
use crate::tracer::{self, Act, Class, Plan, Report};

struct Attack {
    role: &'static str,
    counted: Option<Class>,
    targets: Vec<Class>,
    calls: usize,
}

/// `points` kills, spread evenly over every attack and every call of it.
pub fn points(points: usize) -> Result<String, Failed> {
    let mut arena = Arena::new("kill");
    let mut attacks = Vec::new();
    for role in ["ephemeral", "detached", "reopened"] {
        for (counted, targets) in [
            (None, vec![Class::Embedder]),
            (None, vec![Class::Embedder, Class::Helper, Class::Inner]),
            (Some(Class::Helper), vec![Class::Helper]),
            (Some(Class::Inner), vec![Class::Inner]),
        ] {
            // It starts nothing, so there is nobody else to kill.
            if role == "reopened" && targets != [Class::Embedder] {
                continue;
            }
            let plan = Plan { class: counted, only: None, at: usize::MAX, act: Act::Kill(vec![]) };
            let report = tracer::run(role, &[&arena.root()], &plan);
            let wrong = arena.check(&report);
            if !wrong.is_empty() || !report.stdout.contains("done") {
                return Err(format!("{role} without an attack: {wrong:?} {report:?}").into());
            }
            let calls = counted.map_or(report.counts.values().sum(), |c| report.counts[&c]);
            attacks.push(Attack { role, counted, targets, calls });
        }
    }
    let all: usize = attacks.iter().map(|a| a.calls).sum();
    let (mut done, mut failures) = (0, Vec::new());
    let kept = Kept::now();
    for i in 0..points {
        // Evenly over all calls of all attacks; a second round falls between the first one's points in
        // time, because no two runs are alike.
        let mut place = i * all / points;
        let attack = attacks.iter().find(|a| match place < a.calls {
            true => true,
            false => {
                place -= a.calls;
                false
            }
        });
        let attack = attack.expect("within the sum");
        let plan =
            Plan { class: attack.counted, only: None, at: place + 1, act: Act::Kill(attack.targets.clone()) };
        let report = tracer::run(attack.role, &[&arena.root()], &plan);
        done += usize::from(report.hit.is_some());
        let wrong = judge(&mut arena, attack, &report);
        if !wrong.is_empty() {
            let at = format!("{} {:?} at {} of {}", attack.role, attack.targets, place + 1, attack.calls);
            println!("{at}: {wrong:?}\n    {:?} {:?}", report.hit, report.stdout);
            failures.push(at);
            if failures.len() == 20 {
                break;
            }
        }
    }
    if !failures.is_empty() {
        return Err(format!("{} of {points}: {failures:#?}", failures.len()).into());
    }
    kept.has_not_grown(points)?;
    arena.lingered.sort_unstable();
    let at = |part: usize| arena.lingered.get(arena.lingered.len() * part / 100).copied().unwrap_or_default();
    Ok(format!(
        "{done} kills over {all} calls: listing true, nothing left; ephemeral ones gone after {:?} (median), {:?} (99 %), {:?} (longest)",
        at(50),
        at(99),
        arena.lingered.last().copied().unwrap_or_default()
    ))
}

fn judge(arena: &mut Arena, attack: &Attack, report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    if !attack.targets.contains(&Class::Embedder) && report.hit.is_some() {
        // The victim lived: it must have been told, or not have needed to know.
        let said = &report.stdout;
        if !(said.contains("done") || said.contains("error") && said.contains("retried")) {
            wrong.push("the victim neither succeeded nor got an error and recovered".to_owned());
        }
        // Without its monitor a container has no exit status, and dies: what follows is judged as after
        // an error.
        let mut report =
            Report { stdout: report.stdout.clone(), stderr: report.stderr.clone(), ..Report::default() };
        report.code = Some(0);
        wrong.extend(arena.check(&report));
        return wrong;
    }
    let mut seen = Report {
        stdout: report.stdout.clone(),
        stderr: report.stderr.clone(),
        hung: report.hung,
        ..Report::default()
    };
    if attack.targets.contains(&Class::Helper) {
        // With its monitor the container dies and its end is not recorded.
        seen.stdout = seen.stdout.replace("started\n", "");
    }
    wrong.extend(arena.check(&seen));
    wrong
}
