//! Equal results put together: of two hundred hosts that say the same, one is read. What went wrong comes
//! first, and of that what went wrong most often.

use std::collections::HashMap;

use caelum_model::ssh::{SshGroup, SshOutcome, SshResult};

/// The order of worry.
fn rank(outcome: SshOutcome) -> u8 {
    match outcome {
        SshOutcome::Refused => 0,
        SshOutcome::Unreachable => 1,
        SshOutcome::TimedOut => 2,
        SshOutcome::Failed => 3,
        SshOutcome::Ok => 4,
    }
}

/// Groups of hosts with the same outcome, code and words.
pub fn groups(results: &[SshResult]) -> Vec<SshGroup> {
    type Same<'a> = (SshOutcome, Option<i32>, &'a str, &'a str, Option<&'a str>);
    let mut places: HashMap<Same<'_>, usize> = HashMap::new();
    let mut groups: Vec<SshGroup> = Vec::new();
    for result in results {
        let same: Same<'_> =
            (result.outcome, result.return_code, &result.stdout, &result.stderr, result.error.as_deref());
        let at = *places.entry(same).or_insert_with(|| {
            groups.push(SshGroup {
                outcome: result.outcome,
                return_code: result.return_code,
                stdout: result.stdout.clone(),
                stderr: result.stderr.clone(),
                error: result.error.clone(),
                nodes: Vec::new(),
                count: 0,
            });
            groups.len() - 1
        });
        groups[at].nodes.push(result.node.clone());
        groups[at].count += 1;
    }
    for group in &mut groups {
        group.nodes.sort_unstable();
    }
    groups.sort_by(|a, b| (rank(a.outcome), b.count, &a.nodes).cmp(&(rank(b.outcome), a.count, &b.nodes)));
    groups
}

#[cfg(test)]
mod tests {
    use caelum_model::id::NodeId;

    use super::*;

    fn result(node: &str, outcome: SshOutcome, stdout: &str) -> SshResult {
        SshResult {
            node_id: NodeId::parse(node).expect("valid"),
            node: node.to_owned(),
            outcome,
            success: outcome == SshOutcome::Ok,
            stdout: stdout.to_owned(),
            stderr: String::new(),
            return_code: (outcome == SshOutcome::Ok).then_some(0),
            error: None,
            connection: None,
            is_reused: false,
            duration_ms: 1,
            cut_bytes: 0,
            host_key: None,
        }
    }

    #[test]
    fn what_went_wrong_comes_first_and_equal_words_are_read_once() {
        let results = [
            result("d", SshOutcome::Ok, "12\n"),
            result("b", SshOutcome::Ok, "11\n"),
            result("c", SshOutcome::Unreachable, ""),
            result("a", SshOutcome::Ok, "12\n"),
        ];
        let groups = groups(&results);
        let shown: Vec<(SshOutcome, Vec<&str>)> = groups
            .iter()
            .map(|group| (group.outcome, group.nodes.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(
            shown,
            [
                (SshOutcome::Unreachable, vec!["c"]),
                (SshOutcome::Ok, vec!["a", "d"]),
                (SshOutcome::Ok, vec!["b"])
            ]
        );
        assert_eq!(groups.iter().map(|group| group.count).sum::<usize>(), results.len());
    }
}
