//! The command line is parsed as it is documented.

use super::*;
use clap::error::ErrorKind;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(std::iter::once("moso").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn documented_lines_are_taken() {
    for line in [
        "up --nodes 3 --shards 6 --data somewhere",
        "up --insecure",
        "ca init DIR --cluster prod",
        "ca node DIR 3 --host moso3.example --host 10.0.0.3",
        "ca user DIR anna --group higgs --role submitter --role worker:CERN,BNL",
        "ca session-key DIR",
        "token create --ca-dir DIR --user pilot --role worker:* --for 12h --file t",
        "token create --ca-dir DIR --user anna --group higgs --role production:higgs --days 7",
        "audit --since 2h --user anna --output json",
        "--ca ca.pem --token-file t cluster",
        "cluster --ca ca.pem --cert c.pem --key k.pem",
        "queue create CERN lease_ttl_ms=2m",
        "queue list --output json",
        "queue set CERN state=paused max_running=100",
        "queue pause CERN --for 10m --reason power",
        "queue resume CERN",
        "queue drain CERN",
        "share set Analysis 2.5",
        "share remove Analysis",
        "user set alice max_running=100 banned=true",
        "timeouts set activated 12h --label user --action close",
        "settings set archive_days 7",
        "settings history archive_days",
        "submit --queue CERN --count 10 --wall-time 2h --memory 2G --tag gpu --tag big --wait -- sh -c true",
        "submit --queue CERN --array 10 --priority -5 --not-before 10m -- true",
        "submit --queue CERN --body-file f --body-type t",
        "worker --queue CERN --queue BNL --slots 4 --node-name wn1",
        "task 7",
        "tasks --state running,ready --queue CERN --owner alice",
        "job 7",
        "jobs --state failed,closed --task 1,2 --limit 5",
        "explain 7",
        "kill --task 7 --dry-run",
        "hold --job 1,2,3 --reason wait",
        "release --queue CERN --owner alice",
        "retry --task 7 --state failed --attempts 2",
        "priority -100 --task 7",
        "cluster --connect a:1,b:2",
        "backup create folder --connect a:1",
        "backup verify folder",
        "backup show folder --output json",
        "completion zsh",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_lines_are_refused() {
    for (line, kind) in [
        ("submit -- true", ErrorKind::MissingRequiredArgument),
        ("submit --queue Q --count 0 -- true", ErrorKind::ValueValidation),
        ("submit --queue Q --priority 10001 -- true", ErrorKind::ValueValidation),
        ("submit --queue Q --wall-time 10 -- true", ErrorKind::ValueValidation),
        ("submit --queue Q --body-file f", ErrorKind::MissingRequiredArgument),
        ("submit --queue Q --body-file f --body-type t -- true", ErrorKind::ArgumentConflict),
        ("jobs --state ready", ErrorKind::ValueValidation),
        ("job seven", ErrorKind::ValueValidation),
        ("queue set Q", ErrorKind::MissingRequiredArgument),
        ("queue set Q state", ErrorKind::ValueValidation),
        ("up --nodes 0", ErrorKind::ValueValidation),
        ("worker", ErrorKind::MissingRequiredArgument),
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.kind(), kind, "{line}: {error}");
    }
}

#[test]
fn addresses_are_separated_by_commas() {
    let args = parse("cluster --connect a:1,b:2").unwrap();
    assert_eq!(args.connect, ["a:1", "b:2"]);
}
