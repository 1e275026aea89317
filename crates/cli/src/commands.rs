//! The commands, one module for each topic.

mod demo;
mod doctor;
mod explain;
mod live;
mod operator;
mod render;
mod replica;
mod sharing;
mod tree;

use tokio_util::sync::CancellationToken;

use self::operator::{backup, blobs, users};
use self::replica::{devices, queue, recover, sign_in, state, sync};
use self::sharing::{block, group, share};
use self::tree::{content, directory, edit, inspect, trash, versions};
use crate::args::{Admin, Backup, Blobs, Cli, Command, Repair};
use crate::error::Result;
use crate::output::Output;

/// Runs the command that the arguments name.
pub(crate) async fn run(cli: Cli, output: Output, stop: CancellationToken) -> Result<()> {
    let global = &cli.global;
    match cli.command {
        Command::Serve(args) => operator::serve(*args, output, stop).await,
        Command::Token(args) => operator::token(args, output),
        Command::Admin(Admin::NewEpoch(args)) => operator::new_epoch(args, output).await,
        Command::Admin(Admin::NewSigningKey(args)) => operator::new_signing_key(args, output).await,
        Command::Admin(Admin::Repair(Repair::ReconcileState(args))) => {
            operator::repair_reconcile_state(args, output).await
        }
        Command::Admin(Admin::Users(args)) => users::users(global, args, output, stop).await,
        Command::Admin(Admin::Devices(args)) => users::devices(global, args, output, stop).await,
        Command::Admin(Admin::Doctor(args)) => doctor::server_doctor(args, output, stop).await,
        Command::Blobs(Blobs::Check(args)) => blobs::check(args, output).await,
        Command::Backup(Backup::Create(args)) => backup::create(args, output, stop).await,
        Command::Backup(Backup::Verify(args)) => backup::verify(args, output, stop).await,
        Command::Backup(Backup::Restore(args)) => backup::restore(args, output, stop).await,
        Command::Migrate(args) => operator::migrate(args, output).await,
        Command::Completions(args) => replica::completions(args),
        Command::Man(args) => replica::man(args, output),
        Command::Init(args) => replica::init(global, args, output),
        Command::Login(args) => sign_in::login(global, args, output, stop).await,
        Command::Logout => sign_in::logout(global, output, stop).await,
        Command::Status(args) => replica::status(global, args, output).await,
        Command::Rematerialise => replica::rematerialise(global, output, stop).await,
        Command::Up(args) => live::up(global, args, output, stop).await,
        Command::Folder(action) => live::folder(global, action, output, &stop).await,
        Command::Service(action) => live::service::service(global, action, output),
        Command::Import(args) => directory::import(global, args, output, stop),
        Command::Export(args) => directory::export(global, args, output, stop).await,
        Command::Cat(args) => content::cat(global, args, output, stop).await,
        Command::Get(args) => content::get(global, args, output, stop).await,
        Command::Versions(args) => versions::versions(global, args, output, stop).await,
        Command::Put(args) => content::put(global, args, output, stop),
        Command::Ls(args) => inspect::ls(global, args, output),
        Command::Tree(args) => inspect::tree(global, args, output),
        Command::Stat(args) => inspect::stat(global, args, output),
        Command::Mkdir(args) => edit::mkdir(global, args, output),
        Command::Mv(args) => edit::mv(global, args, output, stop).await,
        Command::Cp(args) => edit::cp(global, args, output, stop).await,
        Command::Rm(args) => edit::rm(global, args, output),
        Command::Ln(args) => edit::ln(global, args, output),
        Command::Trash(args) => trash::trash(global, args, output, stop).await,
        Command::Share(args) => share::share(global, args, output).await,
        Command::Unshare(args) => share::unshare(global, args, output),
        Command::Shares(args) => share::shares(global, args, output),
        Command::Block(args) => block::block(global, args, output, stop).await,
        Command::Unblock(args) => block::unblock(global, args, output, stop).await,
        Command::SharedWithMe => share::shared_with_me(global, output),
        Command::Group(args) => group::group(global, args, output, stop).await,
        Command::Devices(action) => devices::devices(global, action, output, stop).await,
        Command::Sync(args) => sync::sync(global, args, output, stop).await,
        Command::Queue(args) => queue::queue(global, args, output),
        Command::Rejected(args) => queue::rejected(global, args, output),
        Command::Recover(args) => recover::recover(global, args, output),
        Command::Doctor(args) => doctor::doctor(global, args, output, stop).await,
        Command::Explain(args) => explain::explain(&args, output),
        Command::State(args) => state::state(global, args, output),
        Command::Demo(args) => demo::run(args, output, stop).await,
    }
}
