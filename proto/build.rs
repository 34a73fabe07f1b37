//! Compiles the .proto files with protox, so that no protoc needs to be installed.

use std::path::PathBuf;

use prost::Message;

/// Every file with a service or a message of ours, and the details of our errors: without their descriptors a
/// client that works by reflection cannot show an error, nor a batch with one in it.
const FILES: [&str; 7] = [
    "paddock/v1/types.proto",
    "paddock/v1/exchange_service.proto",
    "paddock/v1/key_value_service.proto",
    "paddock/replication/v1/replication_service.proto",
    "paddock/admin/v1/admin_service.proto",
    "paddock/admin/v1/node_service.proto",
    "third_party/google/rpc/error_details.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=paddock");
    println!("cargo::rerun-if-changed=third_party");
    let mut compiler = protox::Compiler::new(["third_party", "."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;

    // Not compiler.file_descriptor_set(): passing through prost's types drops the google.api.http options,
    // which the transcoders read.
    let descriptor_set = compiler.encode_file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptor_set.binpb"), &descriptor_set)?;

    // Comments stay out of the generated code: rustdoc would take them for Rust examples.
    let files = prost_types::FileDescriptorSet::decode(descriptor_set.as_slice())?;
    tonic_prost_build::configure().bytes(".paddock").compile_fds(files)?;
    Ok(())
}
