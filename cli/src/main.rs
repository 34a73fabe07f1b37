//! The `paddock` command: a whole cluster in one process (`dev`), the servers (`router`, `partition`), the
//! tools that speak to a router, and those for the files of a server that is stopped (`storage`).
//!
//! Data goes to stdout, everything else to stderr. The exit code says what kind of failure it was: see
//! [`exit`].

#![forbid(unsafe_code)]

mod arguments;
mod cluster;
mod dump;
mod exit;
mod key;
mod leadership;
mod load;
mod output;
mod placement;
mod record;
mod record_line;
mod recovery;
mod serve;
mod signals;
mod storage;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, BatchCommand, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::Error::new(error).context("no runtime for async work")),
    };
    let code = match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    };
    // What is still under way was given up, and may never end: a disk may stand still.
    runtime.shutdown_background();
    code
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let connection = &arguments.connection;
    match arguments.command {
        Command::Dev(dev) => serve::dev::run(dev).await,
        Command::Router(router) => serve::router::run(router).await,
        Command::Partition(partition) => serve::partition::run(partition).await,
        Command::Get(get) => record::get(&connection.connect().await?, get).await,
        Command::Put(put) => record::put(connection, put).await,
        Command::Delete(delete) => record::delete(&connection.connect().await?, delete).await,
        Command::Locate(locate) => cluster::locate(&connection.connect().await?, locate).await,
        Command::Status(show) => cluster::status(&connection.connect().await?, show).await,
        Command::Partitions(show) => cluster::partitions(&connection.connect().await?, show).await,
        Command::Transfer(transfer) => leadership::transfer(&connection.connect().await?, transfer).await,
        Command::AddReplica(add) => {
            placement::add(&connection.connect().await?, add, connection.timeout()).await
        }
        Command::RemoveReplica(remove) => {
            placement::remove(&connection.connect().await?, remove, connection.timeout()).await
        }
        Command::Recover(recover) => {
            recovery::recover(&connection.connect().await?, recover, connection.timeout()).await
        }
        Command::Drain(drain) => {
            leadership::drain(&connection.connect().await?, drain, connection.timeout()).await
        }
        Command::Storage(command) => storage::run(command),
        Command::Batch(BatchCommand::Load(load)) => load::run(connection, load).await,
        Command::Batch(BatchCommand::Dump(dump)) => dump::run(&connection.connect().await?, dump).await,
    }
}
