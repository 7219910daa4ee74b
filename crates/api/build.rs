fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    let protos = ["fusewire/v1/config.proto", "fusewire/v1/identity.proto"];
    println!("cargo:rerun-if-changed={root}");
    tonic_prost_build::configure().compile_fds(protox::compile(protos, [root])?)?;
    Ok(())
}
