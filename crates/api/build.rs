fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    let protos = ["config", "identity", "registry", "admin"].map(|name| format!("fusewire/v1/{name}.proto"));
    println!("cargo:rerun-if-changed={root}");
    tonic_prost_build::configure()
        // what operators ask for is shown as JSON too
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .btree_map(".")
        .compile_fds(protox::compile(protos, [root])?)?;
    Ok(())
}
