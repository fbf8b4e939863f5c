//! The program: flags, logging, exit codes. Everything else is in the library.

#[path = "main/log.rs"]
mod log;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nearshare::cli::believe::{BelieveArgs, believe};
use nearshare::cli::cert::{CertArgs, cert};
use nearshare::cli::check::{CheckArgs, check};
use nearshare::cli::demo::{Demo, DemoArgs};
use nearshare::cli::kept::{KeptArgs, kept};
use nearshare::cli::promote::{PromoteArgs, promote};
use nearshare::cli::reload::{ReloadArgs, reload};
use nearshare::cli::run::{RunArgs, run};
use nearshare::cli::scan::{ScanArgs, scan};
use nearshare::cli::status::{StatusArgs, status};
use nearshare::cli::verify::{VerifyArgs, verify};
use nearshare::serve::KernelClock;

/// A transparent caching proxy for file servers: reads near, writes home, copies follow
#[derive(Debug, Parser)]
#[command(name = "nearshare", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(RunArgs),
    Check(CheckArgs),
    Cert(CertArgs),
    Status(StatusArgs),
    Reload(ReloadArgs),
    Scan(ScanArgs),
    Promote(PromoteArgs),
    Believe(BelieveArgs),
    Kept(KeptArgs),
    Verify(VerifyArgs),
    Demo(DemoArgs),
}

/// glibc's spends a good twentieth of what a small answer costs on buffers that come and go.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::on_panic();
    match &cli.command {
        Command::Run(args) => {
            log::to_stderr(args.verbose, args.log_format, &args.site);
            run(args)
        }
        Command::Check(args) => check(args),
        Command::Cert(args) => done(cert(args, &KernelClock)),
        Command::Status(args) => status(args),
        Command::Reload(args) => reload(args),
        Command::Scan(args) => scan(args),
        Command::Promote(args) => promote(args),
        Command::Believe(args) => believe(args),
        Command::Kept(args) => kept(args),
        Command::Verify(args) => verify(args),
        Command::Demo(args) => done(Demo::prepare().and_then(|demo| {
            log::to_file(&demo.log_file())?;
            demo.show(args)
        })),
    }
}

/// 0, or 1 and why on standard error.
fn done(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _unread = writeln!(std::io::stderr(), "nearshare: {}", causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but for those that it names itself.
fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
