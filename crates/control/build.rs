//! Makes the client of etcd's API from the few messages of it that the store speaks.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let client = tonic_prost_build::configure().build_server(false).bytes(".");
    client.compile_fds(protox::compile(["etcd.proto"], ["proto"])?)?;
    Ok(())
}
