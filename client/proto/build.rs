//! Compiles `proto/*.proto` without an installed protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    #[cfg(feature = "messages")]
    compile()?;
    Ok(())
}

#[cfg(feature = "messages")]
fn compile() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["jobs.proto", "workers.proto", "admin.proto", "backup.proto"], ["proto"])?;
    let mut config = prost_build_driver::configure()
        .build_client(cfg!(feature = "client"))
        .build_server(cfg!(feature = "server"))
        .build_transport(cfg!(feature = "client"))
        .codec_path("crate::codec::Bounded")
        .bytes(".moso.v1");
    for view in [
        "Needs",
        "JobView",
        "JobList",
        "TaskView",
        "TaskList",
        "StateCount",
        "StatusChange",
        "ErrorPair",
        "Explanation",
        "Gate",
        "ActReply",
        "ActRefusal",
        "SubmitReply",
        "Object",
        "ObjectList",
        "AuditEntry",
        "AuditList",
    ] {
        config = config.type_attribute(format!(".moso.v1.{view}"), "#[derive(serde::Serialize)]");
    }
    config.compile_fds(files)?;
    Ok(())
}
