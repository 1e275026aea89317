// Builds the native part of a package from source and puts it beside the package's JavaScript.
//
//   node build.mjs node [--release]            the client
//   node build.mjs node-testing [--release]    the server for tests
//
// CARGO_TARGET_DIR is honoured; without it the target directory of the product is used.
import { execFileSync } from 'node:child_process';
import { copyFileSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const packages = {
  node: ['vfs-sync-node', 'vfs-sync.node'],
  'node-testing': ['vfs-sync-node-testing', 'vfs-sync-testing.node'],
};
const [folder, ...flags] = process.argv.slice(2);
const found = packages[folder];
if (found === undefined || flags.some((flag) => flag !== '--release')) {
  console.error('usage: node build.mjs node|node-testing [--release]');
  process.exit(2);
}
const [crate, file] = found;
const target = process.env.CARGO_TARGET_DIR ?? join(here, '..', 'target');
const release = flags.length > 0;
const build = ['build', '--package', crate, '--target-dir', target];
execFileSync('cargo', release ? [...build, '--release'] : build, { cwd: here, stdio: 'inherit' });
const base = crate.replaceAll('-', '_');
const names = { win32: `${base}.dll`, darwin: `lib${base}.dylib` };
const library = names[process.platform] ?? `lib${base}.so`;
const to = join(here, folder, file);
// A process may have the old one open: it keeps that one.
copyFileSync(join(target, release ? 'release' : 'debug', library), `${to}.new`);
renameSync(`${to}.new`, to);
