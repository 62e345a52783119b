use super::*;

fn params(value: Value) -> Params {
    let Value::Object(map) = value else { panic!("an object") };
    map
}

fn prun() -> Params {
    params(json!({
        "taskName": "user.me.x/", "noInput": true, "nEvents": 7, "nEventsPerJob": 3, "sourceURL": "http://a:1",
        "log": {"dataset": "user.me.x.log/", "value": "user.me.x.log.$JEDITASKID.${SN}.log.tgz", "type": "template"},
        "jobParameters": [
            {"type": "constant", "value": "-j \"\" --sourceURL ${SURL}"},
            {"type": "constant", "value": "-r ."},
            {"type": "constant", "value": "__delimiter__", "hidden": true},
            {"type": "template", "value": "user.me.$JEDITASKID._${SN/P}.out.txt", "param_type": "output",
             "dataset": "user.me.x_out.txt/", "hidden": true},
            {"type": "constant", "value": "-o \"{'out.txt': 'user.me.$JEDITASKID._${SN/P}.out.txt'}\""},
            {"type": "constant", "value": "-p \"", "padding": false},
            {"type": "constant", "value": "echo%20hello", "padding": false},
            {"type": "constant", "value": "\""},
        ],
    }))
}

#[test]
fn a_task_of_prun_makes_jobs() {
    assert_eq!(jobs(&prun()).unwrap(), 3);
    let body = TaskBody { params: prun(), user: "ann".into(), site: "Q".into(), ..TaskBody::default() };
    let job = job(&body, 45, 1, "http://node:2");
    assert_eq!(
        spec::text(&job, "jobParameters"),
        "-j \"\" --sourceURL http://a:1 -r . -o \"{'out.txt': 'user.me.45._000002.out.txt'}\" -p \"echo%20hello\""
    );
    assert_eq!(spec::text(&job, "transformation"), "http://node:2/trf/user/runGen-00-00-02");
    let names: Vec<_> =
        spec::files(&job, &["output", "log"]).map(|f| (spec::text(f, "lfn"), spec::text(f, "scope"))).collect();
    let expected = ["user.me.45._000002.out.txt", "user.me.x.log.45.000002.log.tgz"];
    assert_eq!(names, expected.map(|name| (name.to_owned(), "user.me".to_owned())));
    assert_eq!(super::job(&body, 45, 1, "http://node:2"), job, "the log's GUID is the same each time");
    let here = TaskBody { here: true, ..body };
    assert!(
        spec::text(&super::job(&here, 45, 1, "http://node:2"), "jobParameters").contains("--sourceURL http://node:2 ")
    );
}

#[test]
fn input_files_are_split_by_count() {
    let item = json!({"type": "template", "value": "-i \"${IN/T}\"", "param_type": "input", "dataset": "user.me.in",
        "files": [{"lfn": "a", "fsize": 1}, "b", "c"]});
    let task = params(json!({"nFilesPerJob": 2, "jobParameters": [item]}));
    assert_eq!(jobs(&task).unwrap(), 2);
    let body = TaskBody { params: task.clone(), ..TaskBody::default() };
    let inputs = |position| {
        let job = job(&body, 1, position, "");
        let files: Vec<_> = spec::files(&job, &["input"]).map(|f| spec::text(f, "lfn")).collect();
        (spec::text(&job, "jobParameters"), files.join(","))
    };
    assert_eq!(inputs(0), ("-i \"a,b\"".into(), "a,b".into()));
    assert_eq!(inputs(1), ("-i \"c\"".into(), "c".into()));
    assert_eq!(inputs(u32::MAX).1, "", "a position beyond the task has no files");
    let fewer = params(json!({"nFiles": 1, "pfnList": ["/x/a", "/x/b"], "jobParameters": []}));
    assert_eq!(jobs(&fewer).unwrap(), 1);
}

#[test]
fn tasks_that_cannot_be_split_are_refused_with_a_reason() {
    let task = params(json!({"jobParameters": [{"param_type": "input", "dataset": "data18.x", "value": "${IN}"}]}));
    assert!(jobs(&task).unwrap_err().message.contains("data18.x"));
    let many = params(json!({"noInput": true, "nEvents": 1e15, "nEventsPerJob": 1}));
    assert!(jobs(&many).unwrap_err().message.contains("at most"));
    assert_eq!(jobs(&params(json!({}))).unwrap(), 1);
    assert_eq!(jobs(&params(json!({"nJobs": -4, "nEvents": "x"}))).unwrap(), 1);
}
