// Builds the native part of a package from source and puts it beside the package's JavaScript.
//
//   node build.mjs node [--release]            the client
//   node build.mjs node-testing [--release]    the server for tests
//   node build.mjs browser [--release]         the client for a page, as WebAssembly
//
// CARGO_TARGET_DIR is honoured; without it the target directory of the product is used. The client
// for a page needs the target wasm32-unknown-unknown; VFS_SYNC_WASM_FLAGS has further arguments for cargo, as for a
// toolchain that builds its standard library first.
import { execFileSync } from 'node:child_process';
import { copyFileSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const packages = {
  node: ['vfs-sync-node', 'vfs-sync.node'],
  'node-testing': ['vfs-sync-node-testing', 'vfs-sync-testing.node'],
  browser: ['vfs-sync-browser'],
};
const [folder, ...flags] = process.argv.slice(2);
const found = packages[folder];
if (found === undefined || flags.some((flag) => flag !== '--release')) {
  console.error('usage: node build.mjs node|node-testing|browser [--release]');
  process.exit(2);
}
const [crate, file] = found;
const target = process.env.CARGO_TARGET_DIR ?? join(here, '..', 'target');
const release = flags.length > 0;
const run = (program, args) => execFileSync(program, args, { cwd: here, stdio: 'inherit' });

if (folder === 'browser') {
  const triple = 'wasm32-unknown-unknown';
  const directory = join(target, 'wasm');
  const profile = release ? ['--profile', 'page'] : [];
  const more = (process.env.VFS_SYNC_WASM_FLAGS ?? '').split(' ').filter((flag) => flag !== '');
  run('cargo', ['build', '--package', crate, '--target', triple, '--target-dir', directory, ...profile, ...more]);
  const base = crate.replaceAll('-', '_');
  const built = join(directory, triple, release ? 'page' : 'debug', `${base}.wasm`);
  const out = join(here, folder, 'dist', 'browser', 'wasm');
  // It runs here, whatever compiles for the page.
  const { RUSTC, RUSTC_BOOTSTRAP, LD_LIBRARY_PATH, ...env } = process.env;
  const tool = ['run', '--quiet', '--package', 'vfs-sync-bindgen', '--target-dir', target, '--', built, out];
  execFileSync('cargo', tool, { cwd: here, stdio: 'inherit', env });
  process.exit(0);
}

const build = ['build', '--package', crate, '--target-dir', target];
run('cargo', release ? [...build, '--release'] : build);
const base = crate.replaceAll('-', '_');
const names = { win32: `${base}.dll`, darwin: `lib${base}.dylib` };
const library = names[process.platform] ?? `lib${base}.so`;
const to = join(here, folder, file);
// A process may have the old one open: it keeps that one.
copyFileSync(join(target, release ? 'release' : 'debug', library), `${to}.new`);
renameSync(`${to}.new`, to);
