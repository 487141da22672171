//! Commands about work: running something now, tasks, what they wrote, schedules.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Client;

/// `caelum run`
#[derive(Debug, Args)]
pub struct Run {
    /// Where: `any` node, a node by its name or id, or nodes with a word, such as tag=web
    #[arg(long, value_name = "WHERE", default_value = "any")]
    pub on: Vec<String>,
    /// On each node that fits, and not on the best one only
    #[arg(long)]
    pub each: bool,
    /// How long it may take: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub timeout: Option<u64>,
    /// 0 to 100; the larger is sooner
    #[arg(long, value_name = "N")]
    pub priority: Option<i32>,
    /// How often it is tried again after a fault
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub retries: u32,
    /// Never a second time, even if its node goes away with it
    #[arg(long)]
    pub at_most_once: bool,
    /// Directory on the node
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Print the tasks' ids and do not wait
    #[arg(long)]
    pub detach: bool,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
    /// The command with its arguments; one argument alone is a line for the shell
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `caelum tasks`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Tasks {
    /// What is done; the list without one.
    #[command(subcommand)]
    pub command: Option<TasksCommand>,
    /// Which are listed.
    #[command(flatten)]
    pub filter: TaskFilter,
}

/// What `caelum tasks` does.
#[derive(Debug, Subcommand)]
pub enum TasksCommand {
    /// List tasks, newest first.
    List(TaskFilter),
    /// Show one: what was asked for, and every attempt.
    Show(OneTask),
    /// Call one off.
    Cancel(OneTask),
    /// Do one again that has ended.
    Retry(OneTask),
    /// Ask for what a file says: a task as JSON, or a list of tasks.
    New {
        /// The file; `-` is the standard input
        file: PathBuf,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
    },
}

/// One task.
#[derive(Debug, Args)]
pub struct OneTask {
    /// The task's id, as listed
    pub id: String,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// Which tasks.
#[derive(Debug, Args)]
pub struct TaskFilter {
    /// Only in this state
    #[arg(long, value_parser = [
        "queued", "leased", "running", "succeeded", "failed", "cancelled", "timed_out", "lost",
    ])]
    pub status: Option<String>,
    /// Only of this kind
    #[arg(long, value_parser = ["shell", "script", "http", "fetch", "probe", "ssh"])]
    pub kind: Option<String>,
    /// Only on this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Only with this text in them
    #[arg(long)]
    pub text: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub limit: u16,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `caelum logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// The task's id, as listed
    pub id: String,
    /// Go on until the task has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `caelum schedules`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Schedules {
    /// What is done; the list without one.
    #[command(subcommand)]
    pub command: Option<SchedulesCommand>,
    /// Which server is asked for the list.
    #[command(flatten)]
    pub client: Client,
}

/// What `caelum schedules` does.
#[derive(Debug, Subcommand)]
pub enum SchedulesCommand {
    /// List schedules.
    List(Client),
    /// Run a command at times.
    Add {
        /// What people call it
        name: String,
        /// When: five fields of cron, or @hourly, @daily and the like
        #[arg(long)]
        cron: String,
        /// Where those times are meant
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        time_zone: String,
        /// Leave out what was missed while no server ran, instead of doing it once
        #[arg(long)]
        skip_missed: bool,
        /// Where: `any` node, a node by its name or id, or nodes with a word, such as tag=web
        #[arg(long, value_name = "WHERE", default_value = "any")]
        on: Vec<String>,
        /// How long one attempt may take: 90s, 10m, 2h
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        timeout: Option<u64>,
        /// Which server is asked.
        #[command(flatten)]
        client: Client,
        /// The command with its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Remove one; its tasks stay.
    Remove(OneSchedule),
    /// Make no tasks from it for now.
    Pause(OneSchedule),
    /// Make tasks from it again.
    Resume(OneSchedule),
}

/// One schedule.
#[derive(Debug, Args)]
pub struct OneSchedule {
    /// The schedule's name or id
    pub schedule: String,
    /// Which server is asked.
    #[command(flatten)]
    pub client: Client,
}

/// `90`, `90s`, `10m`, `2h`, `1d`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("times are such as 90s, 10m, 2h or 1d".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "times are such as 90s, 10m, 2h or 1d".to_owned())?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("10m"), Ok(600));
        assert_eq!(seconds("1d"), Ok(86_400));
        for wrong in ["", "m", "10x", "-1s", "0", "99999999999999999999h", "1é"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
